"""Cost of a day, infer to features, two months into a project against that of its second week.

Equal rows a day, the same active keys, full histories: what a day costs must not grow with what lies before it.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from benchmarks.harness import BenchmarkError, Report, at_most, benchmark, timed
from benchmarks.loop_steps import FmWindows, open_space, span, write_loop
from benchmarks.projects import ProjectSettings, workspace
from feature_store.config import Strict
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.fm_inputs import fm_inputs
from pipelines.ingest import ingest
from pipelines.segments import segments

TARGET = 1.2


class GrowthSettings(Strict):
    """Days are counted from 1. Those before ``early`` and between both groups are written as ranges, untimed."""

    project: ProjectSettings
    fm: FmWindows
    first_day: int
    warm_ups: int
    early: tuple[int, int]
    late: tuple[int, int]


SETTINGS = GrowthSettings


def body(settings: GrowthSettings, report: Report) -> None:
    """Write the sources of all days, then the loop day by day where it is timed."""
    with workspace(settings.project.load(), report) as context:
        world = context.dataset.source.world
        if world is None:
            raise BenchmarkError("project: the source must be the generated world")
        parts = span(context, world.start, context.dataset.clock.next(world.start, settings.late[1] - 1))
        with timed(report, f"sources of {len(parts)} days"):
            ingest(context, parts)
            fm_inputs(context, parts)
        space = open_space(context, settings.fm)
        early = _group(context, space, parts, (settings.first_day, settings.early[0]), settings, report)
        late = _group(context, space, parts, (settings.early[1] + 1, settings.late[0]), settings, report)
        report.add("rows_a_day", world.rows_per_day)
        report.add("tokens_per_history", tokens_per_history(context, space, parts[settings.early[0] - 1]))
        report.add("early_day_seconds", early)
        report.add("late_day_seconds", late)
        report.add("late_over_early", late / early, at_most(TARGET))


def _group(
    context: RunContext,
    space: SpaceRecord,
    parts: list[str],
    before: tuple[int, int],
    settings: GrowthSettings,
    report: Report,
) -> float:
    """Mean seconds of the days of a group, after the days ``before`` (first, first day of the group) were written."""
    first, start = before
    last = settings.early[1] if start == settings.early[0] else settings.late[1]
    with timed(report, f"days {first} .. {start - 1}"):
        _day(context, space, parts[first - 1 : start - 1 - settings.warm_ups])
        for day in range(start - settings.warm_ups, start):
            _day(context, space, [parts[day - 1]])
    seconds = []
    for day in range(start, last + 1):
        begun = time.perf_counter()
        _day(context, space, [parts[day - 1]])
        seconds.append(time.perf_counter() - begun)
        report.say(f"day {day}: {seconds[-1]:.2f} s")
    return float(np.mean(seconds))


def _day(context: RunContext, space: SpaceRecord, parts: list[str]) -> None:
    segments(context, None, parts)
    write_loop(context, space, parts)


def tokens_per_history(context: RunContext, space: SpaceRecord, part: str) -> float:
    """Mean tokens of the histories that the examples of ``part`` read."""
    scope = {"space_id": space.space_id}
    rows = context.store.arrow("histories", context.pin("histories", scope, [part]), scope, [part], ["n"])
    return float(np.mean(rows["n"].to_numpy()))


if __name__ == "__main__":
    sys.exit(benchmark("history_growth", SETTINGS, body))
