"""What a backfill costs against daily runs of the data Dag over the same days, both through a real scheduler.

Cost is the sum of the tasks' durations. Two projects over one world: one is made by ``airflow backfill create`` on the
data Dag, one run a day; the other by ``loopfm backfill``'s Dag. Of the ``days``, the first ``daily_days`` are made in
both ways, and the cost of the others' daily runs is taken to be the same: later days carry more history and cost no
less. Figures: ``daily_cost_seconds`` and ``backfill_cost_seconds`` over all days, ``cost_ratio`` of the second to the
first, and ``tables_that_differ``: how many tables hold other rows (columns that record when a row was computed apart).

With ``bare_parts`` (large partitions) the parts that no orchestration can save are measured beside them, each alone:
scanning the source, the FM's loop and writing the rows. ``overhead_ratio`` compares what lies above them.
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
import pyarrow.compute as pc
import yaml
from pydantic import Field

from benchmarks.big_fm import LoopSettings, measure_bare_loop
from benchmarks.day import fm_rows, write_seconds
from benchmarks.harness import BenchmarkError, Report, at_most, benchmark, timed
from benchmarks.projects import CACHE, REPOSITORY, ProjectSettings, stop_spark
from feature_store.config import Strict
from feature_store.world.source import world_frame
from pipelines.config import TRACKING_SETTING, written_settings
from pipelines.context import RunContext
from pipelines.orchestration.airflow_api import FINISHED, AirflowApi
from pipelines.orchestration.airflow_env import CONF_SETTING, Site
from pipelines.orchestration.follow import follow, start
from pipelines.orchestration.services import down, up
from pipelines.upkeep import TABLES

DAILY, BULK = "bench_daily", "bench_bulk"
AUDIT_COLUMNS = ("computed_at",)
LOOP = LoopSettings(
    widths=[], sized_seconds=0.0, min_seconds=0.0, batch_sizes=[1024, 2048, 4096, 8192], search_rows=16384
)


class Backfill(Strict):
    """``days``: how many the backfill makes, after those that the FM is trained on; ``daily_days``: by daily runs."""

    project: ProjectSettings
    fm_days: int = Field(ge=2, description="first days: the FM trains on them, the last of them validates")
    days: int = Field(ge=1)
    daily_days: int = Field(ge=1)
    bare_parts: bool
    limit_ratio: float
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
            daily_parts = parts[: settings.daily_days]
            with timed(report, f"{len(daily_parts)} runs of the data Dag"):
                measured = _daily_runs(api, own, daily_parts, settings.wait_seconds)
            with timed(report, f"{len(parts)} days by the backfill Dag"):
                bulk = _bulk_run(api, parts, report)
        finally:
            down(own)
        report.add("daily_runs", len(daily_parts))
        daily = report.add("daily_cost_seconds", measured * len(parts) / len(daily_parts))
        report.add("backfill_cost_seconds", bulk)
        if settings.bare_parts:
            report.add("cost_ratio", bulk / daily)
            bare = bare_seconds(contexts[BULK], parts, report)
            report.add("overhead_ratio", (bulk - bare) / (daily - bare), at_most(settings.limit_ratio))
        else:
            report.add("cost_ratio", bulk / daily, at_most(settings.limit_ratio))
        report.add("tables_that_differ", len(_different(contexts, daily_parts, report)), at_most(0))


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
    # The world's end is the schedule's: else scheduled runs of the present days would share the machine.
    config = settings.project.load({"dataset.name": name, "schedule.last": _last_day(settings)})
    path = own.home / "conf" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(written_settings(config), sort_keys=False))
    return RunContext(config, str(path), root=str(own.home))


def _last_day(settings: Backfill) -> str:
    dataset = settings.project.load().dataset
    assert dataset.source.world is not None
    return dataset.clock.next(dataset.source.world.start, dataset.source.world.days - 1)


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
    if set(states) != {"success"} or len(runs) != len(parts):
        raise BenchmarkError(f"{dag_id}: {states}, {len(runs)} runs of {len(parts)} partitions")
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
    kept = rows.drop_columns([name for name in AUDIT_COLUMNS if name in rows.column_names])
    plain = [name for name in kept.column_names if not pa.types.is_nested(kept.schema.field(name).type)]
    return kept.take(pc.sort_indices(kept, [(name, "ascending") for name in plain])).combine_chunks()


def bare_seconds(context: RunContext, parts: list[str], report: Report) -> float:
    """Scan, FM loop and writes of ``parts`` as ``benchmarks.day`` measures them."""
    (space,) = context.spaces.active()
    with timed(report, "bare scan of the source") as scan:
        clock, world = context.dataset.clock, context.dataset.source.world
        assert world is not None
        rows = world_frame(context.spark, world, clock, clock.start(parts[0]), clock.end(parts[-1]))
        rows.write.format("noop").mode("overwrite").save()
    writes = write_seconds(context, space, parts, report)
    stop_spark(context)
    loop = measure_bare_loop(context, space, fm_rows(context, parts), LOOP, report)
    report.add("bare_scan_seconds", scan.seconds)
    report.add("bare_writes_seconds", writes)
    return scan.seconds + writes + loop


if __name__ == "__main__":
    sys.exit(benchmark("backfill", SETTINGS, body))
