"""Following runs: each change once, runs that are added between two waits, and what ends otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.orchestration import follow as module
from pipelines.orchestration.airflow_api import AirflowApi, NoAnswerError
from pipelines.orchestration.follow import Follower, follow


class Scripted(AirflowApi):
    """Answers of an Airflow: Dag -> one (state of the run, task -> state) a look, the last one for good."""

    def __init__(self, script: dict[str, list[tuple[str, dict[str, str]]]]) -> None:
        super().__init__("http://nowhere", "user", "password")
        self.script = script

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return {"state": self.script[dag_id][0][0]}

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        looks = self.script[dag_id]
        states = looks[0][1] if len(looks) == 1 else looks.pop(0)[1]
        common = {"map_index": -1, "try_number": 1, "duration": 2.0}
        return [{**common, "task_id": name, "state": state} for name, state in states.items()]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)


def test_each_change_is_printed_once_and_the_state_of_the_run_is_told() -> None:
    lines: list[str] = []
    looks = [
        ("running", {"plan": "queued"}),
        ("running", {"plan": "running"}),
        ("running", {"plan": "running"}),
        ("failed", {"plan": "failed", "write": "upstream_failed"}),
    ]
    assert follow(Scripted({"backfill": looks}), "backfill", "run", lines.append) == "failed"
    shown = [line.split("] ")[1] for line in lines]
    assert shown == [
        "backfill plan: running",
        "backfill plan: failed after 2.0 s",
        "backfill write: upstream_failed after 2.0 s",
    ]


def test_runs_are_added_once_a_task_of_another_has_succeeded() -> None:
    lines: list[str] = []
    fm = [("running", {"write": "running"}), ("running", {"write": "success", "close": "running"}), ("success", {})]
    api = Scripted({"fm": fm, "vm": [("running", {"train": "running"}), ("success", {"train": "success"})]})
    follower = Follower(api, {"fm": "run"}, lines.append)
    assert follower.succeeded("fm", "write")
    follower.runs["vm"] = "run"
    assert follower.ended() == {"fm": "success", "vm": "success"}
    assert [line.split("] ")[1] for line in lines if "train" in line] == [
        "vm train: running",
        "vm train: success after 2.0 s",
    ]
    assert follower.succeeded("vm", "train")


@pytest.mark.parametrize("end", [("running", {"write": "failed"}), ("failed", {"score": "failed"})])
def test_a_task_that_ended_otherwise_or_never_ran_has_not_succeeded(end: tuple[str, dict[str, str]]) -> None:
    follower = Follower(Scripted({"fm": [("running", {}), end]}), {"fm": "run"}, lambda line: None)
    assert not follower.succeeded("fm", "write")


class Restarted(Scripted):
    """Does not answer for some looks."""

    silent = 2

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        self.silent -= 1
        if self.silent >= 0:
            raise NoAnswerError("http://nowhere: no Airflow answers (refused)")
        return super().run(dag_id, run_id)


def test_an_airflow_that_is_restarted_is_asked_again() -> None:
    lines: list[str] = []
    api = Restarted({"fm": [("success", {"write": "success"})]})
    assert follow(api, "fm", "run", lines.append) == "success"
    assert [line.split("] ")[1] for line in lines] == [
        *["Airflow does not answer, asking again: http://nowhere: no Airflow answers (refused)"] * 2,
        "fm write: success after 2.0 s",
    ]


def test_one_that_stays_away_is_given_up_and_the_runs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    api = Restarted({"fm": [("success", {})]})
    with pytest.raises(NoAnswerError, match=r"not followed any more .* they go on: http://nowhere/dags/fm/runs/run"):
        follow(api, "fm", "run", lambda line: None)
