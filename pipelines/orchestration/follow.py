"""Start a Dag run of the project and print what its tasks do until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.orchestration.airflow_api import FINISHED, AirflowApi, NoAnswerError

POLL_SECONDS = 4.0
PATIENCE_SECONDS = 300.0
"""How long an Airflow that is being restarted is asked again."""
ENDED = ("success", "failed", "upstream_failed", "skipped", "removed")


def run_backfill(project: str, first: str, last: str, space: str) -> str:
    """Run the backfill Dag of a project over a range and follow it.

    Returns:
        The run's final state.
    """
    api = AirflowApi.from_environment()
    dag_id = f"{project}_backfill"
    return follow(api, dag_id, start(api, dag_id, {"first": first, "last": last, "space": space}))


def start(
    api: AirflowApi,
    dag_id: str,
    conf: dict[str, Any],
    partition_key: str | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Trigger a Dag, which may still be unread or paused, and return the id of its run."""
    api.wait_for_dag(dag_id)
    api.unpause(dag_id)
    run_id = api.trigger(dag_id, conf, partition_key)
    say(f"{dag_id}: {api.url}/dags/{dag_id}/runs/{run_id}")
    return run_id


def follow(api: AirflowApi, dag_id: str, run_id: str, say: Callable[[str], None] = print) -> str:
    """Print tasks as they start and end until the run has ended; its state."""
    return Follower(api, {dag_id: run_id}, say).ended()[dag_id]


class Follower:
    """Prints what the tasks of several runs do until it has seen what it waits for.

    Args:
        api: the Airflow that runs them.
        runs: Dag -> its run; more may be added between two waits.
        say: where lines go.
    """

    def __init__(self, api: AirflowApi, runs: Mapping[str, str], say: Callable[[str], None] = print) -> None:
        self.runs = dict(runs)
        self._api, self._say = api, say
        self._begun = self._answered = time.monotonic()
        self._shown: dict[tuple[str, str, int, int], str] = {}
        self._ended: dict[str, str] = {}
        self._tasks: dict[tuple[str, str], str] = {}

    def ended(self) -> dict[str, str]:
        """Wait until all runs have ended; the state of each Dag's run.

        Raises:
            NoAnswerError: Airflow has not answered for minutes; the runs may go on.
        """
        while len(self._ended) < len(self.runs):
            self._look()
        return dict(self._ended)

    def succeeded(self, dag_id: str, task_id: str) -> bool:
        """Wait until a task has succeeded; False when it, or its run, ended otherwise."""
        while dag_id not in self._ended and self._tasks.get((dag_id, task_id)) not in ENDED:
            self._look()
        return self._tasks.get((dag_id, task_id)) == "success"

    def _look(self) -> None:
        time.sleep(POLL_SECONDS)
        try:
            self._read()
        except NoAnswerError as error:
            silent = time.monotonic() - self._answered
            if silent > PATIENCE_SECONDS:
                runs = ", ".join(f"{self._api.url}/dags/{dag_id}/runs/{run}" for dag_id, run in self.runs.items())
                raise NoAnswerError(
                    f"{error}\nnot followed any more after {silent:.0f} s, but they go on: {runs}"
                ) from error
            self._say(f"[{time.monotonic() - self._begun:6.1f} s] Airflow does not answer, asking again: {error}")
        else:
            self._answered = time.monotonic()

    def _read(self) -> None:
        for dag_id in [dag_id for dag_id in self.runs if dag_id not in self._ended]:
            state = str(self._api.run(dag_id, self.runs[dag_id])["state"])
            for task in self._api.tasks(dag_id, self.runs[dag_id]):
                self._show(dag_id, task)
            if state in FINISHED:
                self._ended[dag_id] = state

    def _show(self, dag_id: str, task: Mapping[str, Any]) -> None:
        key = (dag_id, task["task_id"], task["map_index"], task["try_number"])
        now = str(task["state"])
        if self._shown.get(key) != now and now in ("running", "awaiting_input", *ENDED):
            self._say(f"[{time.monotonic() - self._begun:6.1f} s] {_line(dag_id, task)}")
        self._shown[key] = self._tasks[dag_id, task["task_id"]] = now


def _line(dag_id: str, task: Mapping[str, Any]) -> str:
    place = f"[{task['map_index']}]" if task["map_index"] >= 0 else ""
    seconds = f" after {task['duration']:.1f} s" if task["duration"] and task["state"] != "running" else ""
    return f"{dag_id} {task['task_id']}{place}: {task['state']}{seconds}"
