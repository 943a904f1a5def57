"""The search Dag: batches end where they should, trials are mapped one after the other, the winner meets the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dags import search_dag
from dags.factory import project_dags


@pytest.mark.parametrize(("trials", "batch", "ends"), [(25, 10, [10, 20, 25]), (20, 10, [10, 20]), (3, 10, [3])])
def test_batches(monkeypatch: pytest.MonkeyPatch, trials: int, batch: int, ends: list[int], project_file: Path) -> None:
    params: dict[str, Any] = {"trials": trials, "batch": batch, "method": "random", "time_limit": 60}
    monkeypatch.setattr(search_dag, "get_current_context", lambda: {"params": params})
    dag = project_dags(str(project_file))["small_search_feed"]
    made = dag.get_task("batches").python_callable()
    assert [int(arguments[-1]) for arguments in made] == ends
    for arguments in made:
        assert arguments[arguments.index("--trials") + 1] == str(trials)
        assert arguments[arguments.index("--method") + 1] == "random"
        assert arguments[arguments.index("--time-limit") + 1] == "60"
        assert arguments[arguments.index("--until") + 1] == "{part}"


def test_trials_lead_to_the_winner_and_its_gate(project_file: Path) -> None:
    dag = project_dags(str(project_file))["small_search_feed"]
    assert dag.get_task("trials").partial_kwargs["max_active_tis_per_dagrun"] == 1
    assert dag.get_task("search").upstream_task_ids == {"trials"}
    assert dag.get_task("search").downstream_task_ids == {"evaluate"}
    assert {"evaluate", "gate", "promote"} <= dag.get_task("search").get_flat_relative_ids(upstream=False)
    assert type(dag.timetable).__name__ == "NullTimetable"
