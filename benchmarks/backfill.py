"""What a backfill costs against daily runs of the data Dag over the same days, both through a real scheduler.

Cost is the sum of the tasks' durations. Two projects over one world: one is made by ``airflow backfill create`` on the
data Dag, one run a day; the other by ``loopfm backfill``. Figures: ``daily_cost_seconds`` and ``backfill_cost_seconds``
over ``days`` days, ``cost_ratio`` of the second to the first, and ``tables_that_differ``: how many tables hold other
rows (columns that record when a row was computed apart).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import yaml
from pydantic import Field

from benchmarks.harness import BenchmarkError, Report, at_most, benchmark, timed
from benchmarks.projects import CACHE, REPOSITORY, ProjectSettings
from feature_store.config import Strict
from pipelines.config import TRACKING_SETTING
from pipelines.context import RunContext
from pipelines.orchestration.airflow_api import FINISHED, AirflowApi
from pipelines.orchestration.airflow_env import CONF_SETTING, Site
from pipelines.orchestration.follow import follow, start
from pipelines.orchestration.services import down, up
from pipelines.upkeep import TABLES

DAILY, BULK = "bench_daily", "bench_bulk"
AUDIT_COLUMNS = ("computed_at",)


class Backfill(Strict):
    """``days``: how many are made in either way, after those that the FM is trained on."""

    project: ProjectSettings
    fm_days: int = Field(ge=2, description="first days: the FM trains on them, the last of them validates")
    days: int = Field(ge=1)
    limit_ratio: float = 0.2
    wait_seconds: float = Field(default=7200, description="for either way")


SETTINGS = Backfill


def body(settings: Backfill, report: Report) -> None:
    """Prepare both projects, run both ways, compare."""
    with site(report) as own:
        contexts = {name: _project(settings, own, name) for name in (DAILY, BULK)}
        parts = _parts(settings, contexts[DAILY])
        for context in contexts.values():
            _train(settings, context, report)
        api = up(own)
        try:
            with timed(report, f"{settings.days} runs of the data Dag"):
                daily = _daily_runs(api, own, parts, settings.wait_seconds)
            with timed(report, "the same days by the backfill Dag"):
                bulk = _bulk_run(api, parts, report)
        finally:
            down(own)
        report.add("daily_cost_seconds", daily)
        report.add("backfill_cost_seconds", bulk)
        report.add("cost_ratio", bulk / daily, at_most(settings.limit_ratio))
        report.add("tables_that_differ", len(_different(contexts, parts, report)), at_most(0))


@contextmanager
def site(report: Report) -> Iterator[Site]:
    """An empty home below .cache with ports of its own; removed afterwards."""
    CACHE.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{report.name}-", dir=CACHE))
    os.environ.pop(TRACKING_SETTING, None)
    os.environ |= {CONF_SETTING: str(folder / "conf"), "LOOPFM_HOME": str(folder)}
    (folder / "conf").mkdir()
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], two.getsockname()[1]
    try:
        yield Site(folder, *ports)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _project(settings: Backfill, own: Site, name: str) -> RunContext:
    config = settings.project.load({"dataset.name": name})
    path = own.home / "conf" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False))
    return RunContext(config, str(path), root=str(own.home))


def _parts(settings: Backfill, context: RunContext) -> list[str]:
    world = context.dataset.source.world
    if world is None or world.days < settings.fm_days + settings.days:
        raise BenchmarkError(f"project: a world of at least {settings.fm_days + settings.days} days is needed")
    clock = context.dataset.clock
    first = clock.next(clock.span(world.start, world.start)[0], settings.fm_days)
    return clock.between(first, clock.next(first, settings.days - 1))


def _train(settings: Backfill, context: RunContext, report: Report) -> None:
    clock, world = context.dataset.clock, context.dataset.source.world
    assert world is not None
    last = clock.next(world.start, settings.fm_days - 1)
    for arguments in (
        ["write", context.origin, "--from", world.start, "--to", last],
        ["train-fm", context.origin, "--from", world.start, "--to", last, "--validate-from", last],
    ):
        with timed(report, f"{context.config.name}: {arguments[0]}"):
            subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], cwd=REPOSITORY, check=True)


def _daily_runs(api: AirflowApi, own: Site, parts: list[str], seconds: float) -> float:
    dag_id = f"{DAILY}_data"
    api.wait_for_dag(dag_id)
    api.unpause(dag_id)
    command = ["backfill", "create", "--dag-id", dag_id, "--from-date", parts[0], "--to-date", parts[-1]]
    subprocess.run(
        [sys.executable, "-m", "airflow", *command, "--max-active-runs", "1"],
        cwd=REPOSITORY, env=own.environment(), check=True, capture_output=True,
    )  # fmt: skip
    end = time.monotonic() + seconds
    while True:
        runs = {run["partition_key"]: run for run in api.runs(dag_id)}
        states = [runs[part]["state"] for part in parts if part in runs]
        if len(states) == len(parts) and all(state in FINISHED for state in states):
            break
        if time.monotonic() > end:
            raise BenchmarkError(f"{dag_id}: {states} after {seconds:.0f} s")
        time.sleep(2)
    if set(states) != {"success"}:
        raise BenchmarkError(f"{dag_id}: {states}")
    return sum(_cost(api, dag_id, runs[part]["dag_run_id"]) for part in parts)


def _bulk_run(api: AirflowApi, parts: list[str], report: Report) -> float:
    dag_id = f"{BULK}_backfill"
    run_id = start(api, dag_id, {"first": parts[0], "last": parts[-1], "space": "all"}, say=report.say)
    state = follow(api, dag_id, run_id, report.say)
    if state != "success":
        raise BenchmarkError(f"{dag_id}: {state}")
    return _cost(api, dag_id, run_id)


def _cost(api: AirflowApi, dag_id: str, run_id: str) -> float:
    return sum(float(task["duration"] or 0) for task in api.tasks(dag_id, run_id))


def _different(contexts: dict[str, RunContext], parts: list[str], report: Report) -> list[str]:
    found = []
    for table in TABLES:
        if not contexts[DAILY].store.exists(table):
            continue
        first, second = (_rows(context, table, parts) for context in contexts.values())
        if not first.equals(second):
            report.say(f"{table}: {len(first)} rows by daily runs, {len(second)} by the backfill, not equal")
            found.append(table)
    return found


def _rows(context: RunContext, table: str, parts: list[str]) -> pa.Table:
    """All rows of ``parts`` in an order of their own, without audit columns."""
    rows = context.store.arrow(table, context.store.newest(table), {}, parts)
    kept = rows.drop_columns([name for name in AUDIT_COLUMNS if name in rows.column_names]).combine_chunks()
    lines = sorted(range(len(kept)), key=_row_keys(kept).__getitem__)
    return kept.take(pa.array(lines, pa.int64()))


def _row_keys(rows: pa.Table) -> list[str]:
    plain = [name for name in rows.column_names if not pa.types.is_nested(rows.schema.field(name).type)]
    return [str(row) for row in rows.select(plain).to_pylist()]


if __name__ == "__main__":
    sys.exit(benchmark("backfill", SETTINGS, body))
