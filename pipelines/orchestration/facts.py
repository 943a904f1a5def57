"""What a command did, for the scheduler that started it: a small JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.context import RunContext

FACTS_SETTING = "LOOPFM_FACTS"
RUN_SETTING = "LOOPFM_RUN_ID"


def run_id() -> str:
    """Name of this invocation in the ledger: DAG/RUN/TASK under Airflow, with /INDEX of a mapped task, else ``cli``."""
    return os.environ.get(RUN_SETTING, "cli")


def save_facts(facts: Mapping[str, Any] | None) -> None:
    """Leave ``facts`` where the scheduler asked for them; without one there is nothing to do."""
    target = os.environ.get(FACTS_SETTING)
    if target and facts is not None:
        Path(target).write_text(json.dumps(_plain(facts), default=str))


def _plain(value: Any) -> Any:
    """JSON knows no NaN, and Airflow's API refuses it: null stands for a figure that is none."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def written(context: RunContext, since: int) -> list[dict[str, Any]]:
    """Commits of this run since an instant (epoch ms): table, scope, partitions, rows, rejected rows, Delta version."""
    rows = context.store.ledger.entries().to_pylist()
    own = [r for r in rows if r["run_id"] == context.run_id and r["state"] == "done" and r["started_at"] >= since]
    commits: dict[tuple[str, int], dict[str, Any]] = {}
    for row in sorted(own, key=lambda r: (r["computed_at"], r["part"])):
        key = (row["table"], row["version_written"])
        scope = " ".join(json.loads(row["scope"]).values())
        commit = commits.setdefault(
            key,
            {"table": row["table"], "scope": scope, "version": row["version_written"], "first": row["part"],
             "partitions": 0, "rows": 0, "rejected": 0},
        )  # fmt: skip
        commit["last"] = row["part"]
        commit["partitions"] += 1
        commit["rows"] += row["rows"]
        commit["rejected"] += row["rejected"]
    return list(commits.values())
