"""Start a Dag run of the project and print what its tasks do until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pipelines.orchestration.airflow_api import FINISHED, AirflowApi

POLL_SECONDS = 2.0
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
    return follow_all(api, {dag_id: run_id}, say)[dag_id]


def follow_all(api: AirflowApi, runs: dict[str, str], say: Callable[[str], None] = print) -> dict[str, str]:
    """Follow one run of each Dag at once, until all have ended; the state of each Dag's run."""
    begun = time.monotonic()
    shown: dict[tuple[str, str, int, int], str] = {}
    ended: dict[str, str] = {}
    while True:
        for dag_id in [dag_id for dag_id in runs if dag_id not in ended]:
            state = str(api.run(dag_id, runs[dag_id])["state"])
            for task in api.tasks(dag_id, runs[dag_id]):
                key = (dag_id, task["task_id"], task["map_index"], task["try_number"])
                now = str(task["state"])
                if shown.get(key) != now and now in ("running", "awaiting_input", *ENDED):
                    say(f"[{time.monotonic() - begun:6.1f} s] {_line(dag_id, task)}")
                shown[key] = now
            if state in FINISHED:
                ended[dag_id] = state
        if len(ended) == len(runs):
            return ended
        time.sleep(POLL_SECONDS)


def _line(dag_id: str, task: dict[str, Any]) -> str:
    place = f"[{task['map_index']}]" if task["map_index"] >= 0 else ""
    seconds = f" after {task['duration']:.1f} s" if task["duration"] and task["state"] != "running" else ""
    return f"{dag_id} {task['task_id']}{place}: {task['state']}{seconds}"
