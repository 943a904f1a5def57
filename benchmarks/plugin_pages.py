"""Seconds that an answer of the pages in Airflow's UI takes over a generated ledger, models and figures.

An answer is the question's function and its JSON text, as the API server makes it; the server imports what it needs
before anyone asks. ``first`` is the first answer of a project, which reads its whole ledger; the others are the slowest
of some repeats. Seconds of the processor stand beside those of the clock: they hold on a busy machine, too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pydantic import Field

from benchmarks.harness import BenchmarkError, Report, at_most, benchmark, timed
from benchmarks.projects import ProjectSettings, workspace
from feature_store.commits import Attempt
from feature_store.config import Strict
from feature_store.ledger import DONE
from feature_store.schemas import EVALUATIONS
from feature_store.spaces import SpaceRecord
from pipelines.config import ARMS
from pipelines.context import RunContext
from pipelines.inspection.coverage import grid
from pipelines.inspection.lineage import fed, lineage
from pipelines.inspection.partition import partition
from pipelines.inspection.vms import vms
from pipelines.measure import FM_ARM
from pipelines.plan import Target, source_targets, space_targets
from pipelines.registry import CHAMPION

LIMIT = 1.0
FIRST = "2026-01-01T00"
PARTS_A_COMMIT = 24
SLICES = ("all", *(f"part: {FIRST[:-2]}{hour:02d}" for hour in range(24)))
METRICS = ("ne", "auc", "gauc", "calibration", "tr")


class PagesSettings(Strict):
    """``versions`` of each VM, ``comparisons`` of all arms, and how often each question is asked (``repeats``)."""

    project: ProjectSettings
    ledger_rows: int = Field(ge=1)
    spaces: int = Field(ge=1)
    versions: int = Field(ge=1)
    comparisons: int = Field(ge=1)
    repeats: int = Field(ge=1)


SETTINGS = PagesSettings


def body(settings: PagesSettings, report: Report) -> None:
    """Make ledger, models and figures, then ask every question."""
    with workspace(settings.project.load(), report) as context:
        with timed(report, "ledger, models, figures"):
            make_ledger(context, settings)
            make_models(context, settings.versions)
            make_figures(context, settings.comparisons)
        rows = context.store.ledger.entries().num_rows
        if rows < settings.ledger_rows:
            raise BenchmarkError(f"the ledger holds {rows} rows, not {settings.ledger_rows}")
        report.add("ledger_rows", rows)
        report.add(
            "figure_rows", context.store.arrow("evaluations", context.store.newest("evaluations"), {}, None).num_rows
        )
        opened = RunContext(context.config, context.origin, root=context.root, progress=report.say)
        measure(report, "coverage_first", lambda: grid(opened), 1)
        for name, question in questions(opened).items():
            measure(report, name, question, settings.repeats)


def questions(context: RunContext) -> dict[str, Callable[[], Any]]:
    """Each question that a page asks; the partition is the newest, the version the oldest."""
    part = max(context.store.ledger.coverage("examples", {}))
    vertical = context.dataset.heads[0]
    return {
        "coverage": lambda: grid(context),
        "partition": lambda: partition(context, "examples", {}, part),
        "fed": lambda: fed(context, part),
        "vms": lambda: vms(context),
        "lineage": lambda: lineage(context, vertical, "1"),
    }


def measure(report: Report, name: str, question: Callable[[], Any], repeats: int) -> None:
    """Seconds of the slowest answer, by the clock and of the processor, and the answer's bytes."""
    slowest, busiest, size = 0.0, 0.0, 0
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        size = len(json.dumps(question(), separators=(",", ":")))
        slowest = max(slowest, time.perf_counter() - start)
        busiest = max(busiest, time.process_time() - start_cpu)
    report.add(f"{name}_s", slowest, at_most(LIMIT))
    report.add(f"{name}_processor_s", busiest, at_most(LIMIT))
    report.add(f"{name}_bytes", size)


def make_ledger(context: RunContext, settings: PagesSettings) -> None:
    """Done entries of every table, a day of partitions a commit, in the order in which a run writes them."""
    clock = context.dataset.clock
    for number in range(settings.spaces):
        context.spaces.add(_space(context, number))
    targets = source_targets(context)
    for space in context.spaces.active():
        targets += space_targets(context, space)
    parts = [clock.next(FIRST, place) for place in range(-(-settings.ledger_rows // len(targets)))]
    for version, start in enumerate(range(0, len(parts), PARTS_A_COMMIT)):
        own = parts[start : start + PARTS_A_COMMIT]
        context.store.ledger.append([entry for target in targets for entry in _done(context, target, own, version)])


def _done(context: RunContext, target: Target, parts: list[str], version: int) -> list[Any]:
    reads = {source.table: version for source in target.upstream}
    step = target.step.info(context)
    made = Attempt(target.step.table, target.scope, parts, 1, f"{target.label} {version}", step, reads, 0)
    return [replace(entry, version_written=version, rows=1000, rejected=2) for entry in made.entries(DONE)]


def _space(context: RunContext, number: int) -> SpaceRecord:
    heads = context.dataset.heads
    cutoff = context.dataset.clock.start(FIRST)
    return SpaceRecord(
        f"fm-{number}", context.inputs_id, cutoff, 0, heads, 16, 4, ["mlp.0"], "fm", "d", f"run-{number}"
    )


def make_models(context: RunContext, versions: int) -> None:
    """Registered versions of every VM, their runs with parameters and metrics as a training logs them."""
    registry, clock = context.registry, context.dataset.clock
    settings = {f"setting_{number}": number for number in range(15)}
    metrics = {f"validation_{number}": 0.5 for number in range(10)}
    for vertical in context.dataset.heads:
        name = context.vm_name(vertical)
        for number in range(versions):
            first, last = clock.next(FIRST, number), clock.next(FIRST, number + 24)
            tags = {"loopfm.kind": "vm", "loopfm.vertical": vertical, "loopfm.train": f"{first}..{last}"}
            tags |= {f"loopfm.version.{table}": "0" for table in ("features", "histories", "raw_histories")}
            tags |= {"loopfm.space": "fm-0"}
            with registry.run(f"{vertical} {number}", f"{vertical} {number}", tags) as run_id:
                registry.log(run_id, settings, metrics)
            made = registry.register(name, run_id, "vm", {"loopfm.space": "fm-0", "loopfm.trained_until": last})
        registry.set_alias(name, CHAMPION, made.version)


def make_figures(context: RunContext, comparisons: int) -> None:
    """Rows of table evaluations: every arm and metric, over all rows and by partition."""
    part = SLICES[1].removeprefix("part: ")
    for number in range(comparisons):
        common: dict[str, Any] = {
            "model_name": "",
            "model_version": "",
            "run_id": "",
            "space_id": "fm-0",
            "first_part": part,
        }
        common |= {"last_part": part, "rows": 1000, "computed_at": number}
        rows = [
            {**common, "vertical": vertical, "arm": arm, "metric": metric, "slice": slice_name, "value": 0.9}
            for vertical in context.dataset.heads
            for arm in (*ARMS, FM_ARM)
            for metric in METRICS
            for slice_name in SLICES
        ]
        context.store.append_arrow("evaluations", pa.Table.from_pylist(rows, schema=EVALUATIONS))


if __name__ == "__main__":
    sys.exit(benchmark("plugin_pages", SETTINGS, body))
