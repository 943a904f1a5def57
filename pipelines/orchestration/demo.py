"""``make demo-airflow``: the loop as Airflow runs it, from an empty folder to the table of arms."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from feature_store.clocks import DAY_MS
from pipelines.config import load_config
from pipelines.errors import StepError
from pipelines.orchestration.airflow_api import AirflowApi
from pipelines.orchestration.airflow_env import REPOSITORY, Site
from pipelines.orchestration.follow import follow, follow_all, start
from pipelines.orchestration.services import down, up

CONF = REPOSITORY / "conf" / "demo.yaml"


def demo(site: Site, path: Path = CONF) -> None:
    """Start Airflow, let its Dags backfill past days, train the FM, fill its space, run the next day and train VMs.

    At a terminal Airflow stays up; without one it ends.

    Raises:
        StepError: a Dag run failed; names it.
    """
    begun = time.monotonic()
    api = up(site)
    try:
        run_dags(api, path)
        _report(site, path)
        print(f"demo: {time.monotonic() - begun:.0f} s   Airflow: {site.airflow_url}   MLflow: {site.mlflow_url}")
    finally:
        if not sys.stdout.isatty():
            down(site)


def run_dags(api: AirflowApi, path: Path) -> None:
    """The Dags of a generated world, one after the other: backfill of past days, FM, newest day, VMs of every arm.

    Args:
        api: an Airflow that has them.
        path: configuration file of the project.

    Raises:
        StepError: the project has no generated world, or a Dag run failed.
    """
    config = load_config(path)
    world = config.dataset.source.world
    if world is None:
        raise StepError(f"{path}: the demo needs a generated world")
    clock, project = config.dataset.clock, config.name
    first = clock.span(world.start, world.start)[0]
    last = clock.next(first, world.days * DAY_MS // clock.grain_ms - 1)
    past = clock.next(last, -1)
    _run(api, f"{project}_backfill", {"first": first, "last": past, "space": "all"})
    _run(api, f"{project}_fm", {"part": last})
    _run(api, f"{project}_data", {}, partition_key=last)
    dags = [f"{project}_vm_{vertical}" for vertical in config.dataset.heads]
    started = {dag_id: start(api, dag_id, {"part": last, "compare": True}) for dag_id in dags}
    for dag_id, state in follow_all(api, started).items():
        _require_success(api, dag_id, state)


def _run(api: AirflowApi, dag_id: str, conf: dict[str, object], partition_key: str | None = None) -> None:
    _require_success(api, dag_id, follow(api, dag_id, start(api, dag_id, conf, partition_key)))


def _require_success(api: AirflowApi, dag_id: str, state: str) -> None:
    if state != "success":
        raise StepError(f"{dag_id} ended as {state}; its page shows the failed task: {api.url}/dags/{dag_id}")


def _report(site: Site, path: Path) -> None:
    from pipelines.build_report import rebuild_report
    from pipelines.context import RunContext

    rebuild_report(RunContext.load(path, root=str(site.home)))
