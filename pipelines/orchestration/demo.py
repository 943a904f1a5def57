"""``make demo``: the loop as Airflow runs it, from an empty folder to the table of arms."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from feature_store.clocks import DAY_MS
from pipelines.config import load_config
from pipelines.errors import StepError
from pipelines.orchestration.airflow_api import AirflowApi
from pipelines.orchestration.airflow_env import REPOSITORY, SPARK_POOL, TRAINER_POOL, Site
from pipelines.orchestration.follow import Follower, start
from pipelines.orchestration.services import down, service_file, up

CONF = REPOSITORY / "conf" / "demo.yaml"
LAST_WRITE = "write_rest"
"""Task of an FM's refresh after which its space can be read; champions, of which there are none, come after it."""
OF_A_SPACE = "space.features"
"""Task of a day's run that writes a space, skipped where none is open."""


def demo(site: Site, path: Path = CONF) -> None:
    """Start Airflow, let its Dags backfill past days, train the FM, fill its space, train VMs and run the next day.

    At a terminal Airflow stays up, with the Dags switched off: their world ends on the day that they made. Without one
    it ends, unless it ran before.

    Raises:
        StepError: a Dag run failed; names it.
    """
    begun, ran_before = time.monotonic(), bool(service_file(site).read())
    api = up(site)
    try:
        with _slots(api, SPARK_POOL, 2), _slots(api, TRAINER_POOL, 2):
            begun_dags = run_dags(api, path)
        for dag_id in begun_dags:
            api.pause(dag_id)
        _report(site, path)
        print(f"demo: {time.monotonic() - begun:.0f} s   Airflow: {site.airflow_url}   MLflow: {site.mlflow_url}")
    finally:
        if not sys.stdout.isatty() and not ran_before:
            down(site)


def run_dags(api: AirflowApi, path: Path) -> list[str]:
    """The Dags of a generated world: a backfill of past days, then the newest day's run beside the FM's and the VMs'.

    FM and VMs are trained on the past days. The newest day's run first makes the tables of all spaces; by the time that
    it asks for the active ones, the FM has usually opened its own. Where it has not, the day is run once more.

    Args:
        api: an Airflow that has them.
        path: configuration file of the project.

    Returns:
        Dags that were switched on for it.

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
    backfill, refresh, data = (f"{project}_{kind}" for kind in ("backfill", "fm", "data"))
    span = {"first": first, "last": past, "space": "all"}
    follower = Follower(api, {backfill: start(api, backfill, span)})
    _require_success(api, follower.ended())
    follower.runs |= {refresh: start(api, refresh, {"part": past}), data: start(api, data, {}, partition_key=last)}
    if follower.succeeded(refresh, LAST_WRITE):
        vms = [f"{project}_vm_{vertical}" for vertical in config.dataset.heads]
        follower.runs |= {vm: start(api, vm, {"part": past, "compare": True}) for vm in vms}
    _require_success(api, follower.ended())
    if not follower.succeeded(data, OF_A_SPACE):
        _require_success(api, Follower(api, {data: start(api, data, {}, partition_key=last)}).ended())
    return list(follower.runs)


@contextmanager
def _slots(api: AirflowApi, name: str, slots: int) -> Iterator[None]:
    """More steps at once for a while: of steps as small as the demo's, one alone leaves a third of two cores idle."""
    path = f"/pools/{name}"
    pool = api.call("GET", path)
    settings = {"pool": pool["name"], **{name: pool[name] for name in ("slots", "description", "include_deferred")}}
    api.call("PATCH", path, {**settings, "slots": slots})
    try:
        yield
    finally:
        with suppress(StepError):  # of an Airflow that has died, the first error is the one to read
            api.call("PATCH", path, settings)


def _require_success(api: AirflowApi, ended: Mapping[str, str]) -> None:
    failed = [dag_id for dag_id, state in ended.items() if state != "success"]
    if failed:
        pages = ", ".join(f"{api.url}/dags/{dag_id}" for dag_id in failed)
        raise StepError(f"{', '.join(failed)} did not succeed; the failed task is on its page: {pages}")


def _report(site: Site, path: Path) -> None:
    from pipelines.build_report import rebuild_report
    from pipelines.context import RunContext

    rebuild_report(RunContext.load(path, root=str(site.home)))
