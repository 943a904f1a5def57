"""Rows/s of the whole Spark inference job, Delta commit included, against a bare torch loop over the same rows.

The loop runs the same FM and codec over tensors in memory, on all cores, at its fastest batch size, and must take at
least a minute. Warm: the session has scored another partition before. Cold: ``loopfm infer`` in a new process.
"""

from __future__ import annotations

import subprocess
import sys
import time

import pyarrow as pa

from benchmarks.big_fm import LoopSettings, measure_bare_loop, size_fm
from benchmarks.harness import BenchmarkError, Report, at_least, benchmark, timed
from benchmarks.projects import ProjectSettings, command_environment, save_project, stop_spark, workspace
from feature_store.config import Strict
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.fm_inputs import fm_inputs
from pipelines.infer import infer
from pipelines.ingest import ingest
from pipelines.train_fm import train_fm

TARGET = 0.80


class InferenceSettings(Strict):
    """``train``, ``validation`` and ``warm_up``: small partitions; ``day``: the day that is timed, of ``min_rows``."""

    project: ProjectSettings
    train: str
    validation: str
    warm_up: str
    day: str
    min_rows: int
    loop: LoopSettings


SETTINGS = InferenceSettings


def prepare(
    context: RunContext, settings: InferenceSettings, report: Report
) -> tuple[SpaceRecord, list[str], pa.Table]:
    """Write the FM's inputs, size and train the FM; returns its space, the day's partitions and their rows.

    Raises:
        BenchmarkError: the day holds fewer rows than ``min_rows``.
    """
    clock = context.dataset.clock
    small = clock.between(settings.train, settings.warm_up)
    day = clock.between(*clock.span(settings.day, settings.day))
    with timed(report, f"ingest and fm-inputs of {small[0]} .. {small[-1]} and {settings.day}"):
        for parts in (small, day):
            ingest(context, parts)
            fm_inputs(context, parts)
    rows = _rows(context, day)
    if rows.num_rows < settings.min_rows:
        raise BenchmarkError(f"{settings.day} holds {rows.num_rows} rows, fewer than min_rows={settings.min_rows}")
    size_fm(context, settings.loop, _rows(context, [settings.train]), rows.num_rows, report)
    save_project(context)
    space = train_fm(context, [settings.train], [settings.validation])
    return space, day, rows


def body(settings: InferenceSettings, report: Report) -> None:
    """Measure the bare loop, then the warm job, then the cold one."""
    with workspace(settings.project.load(), report) as context:
        space, day, rows = prepare(context, settings, report)
        report.add("rows", rows.num_rows)
        loop = measure_bare_loop(context, space, rows, settings.loop, report)
        infer(context, space, [settings.warm_up])
        with timed(report, "warm Spark job") as warm:
            infer(context, space, day)
        stop_spark(context)
        cold = _cold_seconds(context, space, settings.day)
        report.add("spark_job_seconds", warm.seconds)
        report.add("spark_rows_per_second", rows.num_rows / warm.seconds)
        report.add("cold_job_seconds", cold)
        report.add("cold_spark_over_bare_loop", loop / cold)
        report.add("spark_over_bare_loop", loop / warm.seconds, at_least(TARGET))


def _rows(context: RunContext, parts: list[str]) -> pa.Table:
    scope = {"inputs_id": context.inputs_id}
    return context.store.arrow("fm_inputs", context.pin("fm_inputs", scope, parts), scope, parts)


def _cold_seconds(context: RunContext, space: SpaceRecord, day: str) -> float:
    command = [sys.executable, "-m", "pipelines.cli", "infer", context.origin, "--from", day, "--space", space.space_id]
    start = time.perf_counter()
    done = subprocess.run(command, env=command_environment(context), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"loopfm infer failed: {done.stderr[-2000:]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(benchmark("fm_inference", SETTINGS, body))
