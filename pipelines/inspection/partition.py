"""One partition of one table: every attempt at it, what it read and wrote, what was rejected, and its state now."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.compute as pc

from feature_store.ledger import RUNNING, scope_text
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.ingest import EXAMPLES
from pipelines.inspection.coverage import coverage
from pipelines.plan import Upstream

ATTEMPT_COLUMNS = (
    "attempt", "state", "step", "step_version", "definition", "version_written", "versions_read", "rows", "rejected",
    "digest", "run_id", "commit", "message", "started_at", "computed_at",
)  # fmt: skip


def partition(context: RunContext, table: str, scope: dict[str, str], part: str) -> dict[str, Any]:
    """What the ledger knows of ``part`` of ``table`` in ``scope``, as plain data.

    Keys: ``state`` and ``reason``; ``upstream``: the partitions it depends on, as [table, first, last];
    ``attempts``, the newest first: the ledger's columns (instants in ms), a running attempt that has ended left out;
    ``rejects``: reason -> rows of this partition in quarantine, for the tables that ingest writes.

    Raises:
        StepError: no such table or scope in this project; the message lists those there are.
        ContractError: ``part`` is no partition of this data set's grain.
    """
    context.dataset.clock.start(part)
    known = {
        (c.target.step.table, scope_text(c.target.scope)): c for c in coverage(context, context.spaces.all(), [part])
    }
    found = known.get((table, scope_text(scope)))
    if found is None:
        raise StepError(f"{context.origin}: no table {table} with {scope}; there are {sorted(known)}")
    state = found.states[part]
    return {
        "table": table,
        "scope": scope,
        "part": part,
        "state": state.state,
        "reason": state.reason,
        "upstream": [row for source in found.target.upstream if (row := _upstream(context, source, part))],
        "attempts": _attempts(context, table, scope, part),
        "rejects": _rejects(context, part) if found.target.step.name == EXAMPLES.name else {},
    }


def _upstream(context: RunContext, source: Upstream, part: str) -> list[str]:
    """Table, first and last partition that ``part`` depends on; nothing where no such partition is there."""
    span = source.span(part)
    written = context.store.ledger.coverage(source.table, source.scope)
    if span is None or (not span[0] and (not written or min(written) > span[1])):
        return []
    return [source.table, span[0] or min(written), span[1]]


def _attempts(context: RunContext, table: str, scope: dict[str, str], part: str) -> list[dict[str, Any]]:
    events = context.store.ledger.entries()
    own = pc.and_(pc.equal(events["part"], part), pc.equal(events["table"], table))
    rows = events.filter(pc.and_(own, pc.equal(events["scope"], scope_text(scope)))).to_pylist()
    ended = {row["token"] for row in rows if row["state"] != RUNNING}
    shown = [row for row in rows if row["state"] != RUNNING or row["token"] not in ended]
    shown.sort(key=lambda row: (row["attempt"], row["token"], row["computed_at"]), reverse=True)
    return [{name: row[name] for name in ATTEMPT_COLUMNS} | _parsed(row) for row in shown]


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    return {"versions_read": json.loads(row["versions_read"])}


def _rejects(context: RunContext, part: str) -> dict[str, int]:
    entry = context.store.ledger.coverage("quarantine", {}).get(part)
    version = context.store.ledger.head("quarantine")
    if version is None or entry is None or not entry.done:
        return {}
    rows = context.store.arrow("quarantine", version, {}, [part], ["reason"])
    counts = rows.group_by("reason").aggregate([("reason", "count")]).to_pylist()
    return {row["reason"]: row["reason_count"] for row in counts}
