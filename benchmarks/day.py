"""Wall time of a day of a million rows, from source files to trained VMs, against the sum of its bare parts.

Bare parts, each alone in the same run: scanning the source, the bare FM loop of ``fm_inference``, writing the day's
tables from rows computed before, and one epoch of the VMs (two keys of 50 tokens) on batches that
lie ready in memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import torch

from benchmarks.big_fm import LoopSettings, measure_bare_loop, size_fm
from benchmarks.feeds import ReadyFeed
from benchmarks.harness import BenchmarkError, Report, at_most, benchmark, cores, timed
from benchmarks.loop_steps import FmWindows, open_space, span, write_loop, write_sources, write_tokens
from benchmarks.projects import ProjectSettings, stop_spark, workspace
from feature_store.clocks import PartitionClock
from feature_store.config import RAW_SPACE, Strict, WorldConfig
from feature_store.schemas import PARTITION_COLUMNS
from feature_store.spaces import SpaceRecord
from feature_store.world.source import world_frame
from models.vm_train import train_vm as fit_vm
from pipelines.context import RunContext
from pipelines.train_vm import train_vm
from pipelines.vm_rows import feed, pin_rows, vm_inputs

TARGET = 1.6


class DaySettings(Strict):
    """``world``: written to Parquet first, as the source; ``vm_validation``: the last partition of ``day``."""

    project: ProjectSettings
    world: WorldConfig
    world_grain: int
    fm: FmWindows
    first_tokens: str
    day: str
    vm_validation: str
    min_rows: int
    loop: LoopSettings


SETTINGS = DaySettings


def body(settings: DaySettings, report: Report) -> None:
    """Prepare what lies before the day, run the day, then each bare part."""
    with workspace(settings.project.load(), report) as context:
        source = Path(context.root, "source")
        write_source(context, settings, source)
        context.config = settings.project.load({"dataset.source": {"read": _read(source)}})
        day = span(context, settings.day)
        space = prepare(context, settings, day, report)
        with timed(report, "the day, source to trained VMs") as whole:
            run_day(context, space, day, settings.vm_validation, report)
        parts = {
            "scan": scan_seconds(context, source, settings.day, report),
            "writes": write_seconds(context, space, day, report),
        }
        stop_spark(context)
        parts["fm_loop"] = measure_bare_loop(context, space, fm_rows(context, day), settings.loop, report)
        parts["vm_training"] = training_seconds(context, space, day, settings.vm_validation, report)
        for name, seconds in parts.items():
            report.add(f"bare_{name}_seconds", seconds)
        report.add("day_seconds", whole.seconds)
        report.add("day_over_bare_parts", whole.seconds / sum(parts.values()), at_most(TARGET))


def write_source(context: RunContext, settings: DaySettings, folder: Path) -> None:
    """The world as Parquet files, a folder a day."""
    clock = PartitionClock(settings.world_grain)
    start = clock.start(settings.world.start)
    for number in range(settings.world.days):
        first = start + number * settings.world_grain
        rows = world_frame(context.spark, settings.world, clock, first, first + settings.world_grain)
        rows.drop("source_file").write.parquet(str(folder / f"day-{clock.part_of(first)}"))


def _read(source: Path) -> dict[str, object]:
    return {"format": "parquet", "paths": [str(source)]}


def prepare(context: RunContext, settings: DaySettings, day: list[str], report: Report) -> SpaceRecord:
    """Sources before the day, an FM of the right size, and enough tokens to fill the day's histories."""
    clock = context.dataset.clock
    before = clock.next(day[0], -1)
    with timed(report, "everything before the day"):
        write_sources(context, span(context, settings.fm.train, settings.fm.validation))
        write_sources(context, clock.between(settings.first_tokens, before))
        sample = fm_rows(context, span(context, settings.fm.train))
        size_fm(context, settings.loop, sample, settings.min_rows, report)
        space = open_space(context, settings.fm)
        write_tokens(context, space, clock.between(settings.first_tokens, before))
    return space


def run_day(context: RunContext, space: SpaceRecord, day: list[str], validation: str, report: Report) -> None:
    """Every step of a scheduled day: one FM pass, histories, and an epoch of every vertical's recipe."""
    _step(report, "ingest to raw segments", lambda: write_sources(context, day))
    _step(report, "infer to features", lambda: write_loop(context, space, day))
    border = day.index(validation)
    for vertical in context.dataset.heads:
        _step(report, f"VM of {vertical}", partial(train_vm, context, vertical, space, day[:border], day[border:]))


def scan_seconds(context: RunContext, source: Path, day: str, report: Report) -> float:
    """Reading every column of the day's source rows."""
    with timed(report, "bare scan of the source") as watch:
        rows = context.spark.read.parquet(f"{source}/day-{day}")
        rows.write.format("noop").mode("overwrite").save()
    return watch.seconds


def write_seconds(context: RunContext, space: SpaceRecord, day: list[str], report: Report) -> float:
    """Writing the rows of each of the day's tables, held in Spark's memory, to a new Delta table of the same layout."""
    own, raw = {"space_id": space.space_id}, {"space_id": RAW_SPACE}
    tables: Sequence[tuple[str, dict[str, str]]] = [
        ("examples", {}), ("labels", {}), ("fm_inputs", {"inputs_id": context.inputs_id}), ("fm_outputs", own),
        ("segments", own), ("segments", raw), ("histories", own), ("histories", raw), ("features", own),
    ]  # fmt: skip
    total = 0.0
    for place, (table, scope) in enumerate(tables):
        frame = context.store.read(context.spark, table, context.pin(table, scope, day), scope, day).persist()
        frame.count()
        target = str(Path(context.root, "copies", f"{place}-{table}"))
        with timed(report, f"bare write of {table} {scope.get('space_id', '')}") as watch:
            frame.write.format("delta").partitionBy(*PARTITION_COLUMNS[table]).save(target)
        frame.unpersist()
        total += watch.seconds
    return total


def training_seconds(context: RunContext, space: SpaceRecord, day: list[str], validation: str, report: Report) -> float:
    """One epoch of every vertical's recipe on batches that lie ready in memory; validation is not counted."""
    torch.set_num_threads(cores())
    border = day.index(validation)
    config = context.config.vm.arm(context.config.vm.scheduled_arm)
    pinned, known_at = pin_rows(context, space, day), context.dataset.clock.end(day[-1])
    total = 0.0
    for vertical in context.dataset.heads:
        plain, held_out = (feed(context, vertical, config, pinned, p, known_at) for p in (day[:border], day[border:]))
        ready = ReadyFeed(plain.files, plain.inputs, config, known_at=known_at, batch_size=config.train.batch_size)
        fit_vm(config, vm_inputs(context, vertical, space), ready, held_out)
        report.say(f"bare training of {vertical}: {ready.epoch_seconds[0]:.1f} s, {ready.epoch_rows[0]:,} rows")
        total += sum(ready.epoch_seconds)
    return total


def _step(report: Report, label: str, action: Callable[[], object]) -> None:
    with timed(report, label) as watch:
        action()
    report.add(f"{label.replace(' ', '_')}_seconds", watch.seconds)


def fm_rows(context: RunContext, parts: list[str]) -> pa.Table:
    """Every row that the FM reads in ``parts``."""
    scope = {"inputs_id": context.inputs_id}
    rows = context.store.arrow("fm_inputs", context.pin("fm_inputs", scope, parts), scope, parts)
    if not rows.num_rows:
        raise BenchmarkError(f"no rows in {parts[0]} .. {parts[-1]}")
    return rows


if __name__ == "__main__":
    sys.exit(benchmark("day", SETTINGS, body))
