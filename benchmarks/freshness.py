"""What LoopFM keeps of the FM's gain, over how late its histories are: at once, then partitions of minutes to a day.

Each cadence is a data set of its own, written whole through the pipeline. Method section 4. A second part holds the
histories' clock and makes the teacher older instead, with ExFM's student adapter and without (arXiv 2502.17494).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pydantic import Field

from benchmarks.experiment_figures import (
    BASE,
    CONTROL,
    FM,
    ArmScores,
    add_batch_fm,
    add_interval,
    add_shares_of_others,
)
from benchmarks.experiment_output import Output, arm_rows, experiment_benchmark, number, seeds_note
from benchmarks.experiments import (
    CellSettings,
    Experiment,
    SeedSettings,
    WorldSettings,
    arm_scores,
    experiment,
    run_cells,
)
from benchmarks.harness import BenchmarkError, Report, at_least, at_most
from feature_store.config import Name, Strict
from pipelines.windows import RunWindows

KD, LOOPFM, LARGE_COUNTERS = "kd", "loopfm", "large_counters"
UNTAUGHT = (LOOPFM, "control_untaught")
"""Cells without distillation: the recipe's and its control's."""
FM_NE, BASE_NE, SLACK = 0.813, 0.913, 0.002


@dataclass(frozen=True)
class Limits:
    """What a cadence must reach: TR, NE over the control, points of TR over KD; and the prototype's control."""

    transfer: float
    over_control: float
    over_kd: float
    control_ne: float


LIMITS = {
    "minutes_10": Limits(0.75, 0.030, 0.70, 0.8717),
    "hour_5m": Limits(0.60, 0.024, 0.55, 0.8788),
    "day_1h": Limits(0.25, 0.006, 0.22, 0.8968),
}


class DelaySettings(Strict):
    """How many partitions before the VM's window the teacher's own window ends, and the cells taught by it."""

    world: WorldSettings
    delays: list[int] = Field(min_length=1)
    cells: dict[Name, CellSettings]


class FreshnessSettings(SeedSettings):
    """``cadences``: the same data at each availability, freshest first; ``cells``: the VMs compared at each.

    ``base`` and ``kd`` are required; an FM of the same size on batch features stands beside them. Claims are made of
    the cell ``recipe`` against the cell ``control``. Each of the ``ideas`` is a cell that changes the recipe by one.
    ``fewer``: the cells of a cadence that has not all of them. Without cadences ``delay`` runs alone.
    """

    cadences: dict[Name, WorldSettings] = Field(default={})
    cells: dict[Name, CellSettings] = Field(default={})
    recipe: Name = LOOPFM
    control: Name = CONTROL
    ideas: list[Name] = Field(default=[])
    fewer: dict[Name, list[Name]] = Field(default={})
    with_limits: bool = True
    delay: DelaySettings | None = None

    def cells_at(self, cadence: str) -> dict[str, CellSettings]:
        """The cells of a cadence, in the order declared."""
        return {name: cell for name, cell in self.cells.items() if name in self.fewer.get(cadence, self.cells)}


SETTINGS = FreshnessSettings


def body(settings: FreshnessSettings, report: Report, output: Output) -> None:
    """All cadences, then the old teachers.

    Raises:
        MissingDataError: the data set is not there.
        BenchmarkError: a required cell is not declared.
    """
    _require_cells(settings)
    curves: dict[str, list[tuple[float, float]]] = {}
    for place, (cadence, world) in enumerate(settings.cadences.items()):
        for name, arms in _cadence(cadence, world, settings, report, output):
            for cell in settings.cells:
                share = arms.share(cell).value if cell != BASE else math.nan
                if not math.isnan(share):
                    curves.setdefault(f"{name} {cell}".strip(), []).append((place, share))
    if curves:
        output.plot("freshness", ("availability", "transfer ratio"), curves, list(settings.cadences))
    if settings.delay is not None:
        _delays(settings, settings.delay, report, output)


def _require_cells(settings: FreshnessSettings) -> None:
    for cadence in settings.cadences:
        missing = sorted({BASE, KD, settings.recipe, settings.control} - set(settings.cells_at(cadence)))
        if missing:
            raise BenchmarkError(f"cells of {cadence}: {missing} are missing")
    named = {*settings.ideas, *(name for names in settings.fewer.values() for name in names)}
    if unknown := sorted(named - set(settings.cells)):
        raise BenchmarkError(f"ideas, fewer: got {unknown}; allowed: names of cells")


def _cadence(
    cadence: str, world: WorldSettings, settings: FreshnessSettings, report: Report, output: Output
) -> Iterable[tuple[str, ArmScores]]:
    with experiment(world, report) as opened:
        for vertical in opened.verticals:
            scored = run_cells(opened, vertical, settings.cells_at(cadence), range(settings.seeds))
            arms = arm_scores(opened, vertical, scored, settings.bootstrap)
            name = cadence if len(opened.verticals) == 1 else f"{cadence}_{vertical}"
            output.table(f"freshness_{name}", f"{name}, {seeds_note(arms.seeds)}", *arm_rows(arms, scored))
            limits = LIMITS.get(cadence) if settings.with_limits else None
            _claims(name, arms, settings, limits, report)
            yield vertical if len(opened.verticals) > 1 else "", arms


def _claims(name: str, arms: ArmScores, settings: FreshnessSettings, limits: Limits | None, report: Report) -> None:
    recipe, control = settings.recipe, settings.control
    report.add(f"{name}_seeds", arms.seeds, settings.seeds_target)
    report.add(f"{name}_fm_ne", arms.metric(FM, "ne"), at_most(FM_NE) if limits else None)
    report.add(f"{name}_base_ne", arms.metric(BASE, "ne"), at_most(BASE_NE) if limits else None)
    report.add(f"{name}_control_ne", arms.metric(control, "ne"), at_most(limits.control_ne + SLACK) if limits else None)
    report.add(f"{name}_best_ne", arms.metric(recipe, "ne"))
    over = arms.gain(recipe, control)
    report.add(f"{name}_over_control", over.value, at_least(limits.over_control) if limits else None)
    report.add(f"{name}_over_control_low", over.low)
    if set(UNTAUGHT) <= set(arms.by_arm):
        add_interval(report, f"{name}_over_control_untaught", arms.gain(*UNTAUGHT))
    for idea in settings.ideas:
        if idea in arms.by_arm:
            add_interval(report, f"{name}_{idea}_gain", arms.gain(idea, recipe))
    report.add(f"{name}_tr", arms.share(recipe).value, at_least(limits.transfer) if limits else None)
    add_shares_of_others(report, name, arms, recipe)
    add_batch_fm(report, name, arms)
    if LARGE_COUNTERS in arms.by_arm:
        report.add(f"{name}_counters_tr", arms.share(LARGE_COUNTERS).value)
    report.add(f"{name}_kd_tr", arms.share(KD).value)
    points = arms.share_difference(recipe, KD)
    report.add(f"{name}_over_kd", points.value, at_least(limits.over_kd) if limits else None)
    report.add(f"{name}_over_kd_low", points.low, at_least(0.0) if limits else None)


def delayed(windows: RunWindows, delay: int) -> RunWindows:
    """Windows of a teacher that ends ``delay`` partitions before the VM's rows begin; its outputs cover those alone.

    Raises:
        BenchmarkError: the range holds no such window.
    """
    rows, train = windows.fm + windows.warm_up, len(windows.fm_train)
    last = len(rows) - delay
    first = last - len(windows.fm)
    if first < 0:
        raise BenchmarkError(
            f"delays: got {delay}; allowed: 0 .. {len(windows.warm_up)}, the length of windows.warm_up"
        )
    own = rows[first:last]
    return replace(windows, fm_train=own[:train], fm_validation=own[train:], warm_up=[])


def _delays(settings: FreshnessSettings, delay: DelaySettings, report: Report, output: Output) -> None:
    rows = []
    lines: dict[str, list[tuple[float, float]]] = {}
    with experiment(delay.world, report) as opened:
        for vertical in opened.verticals:
            for late in delay.delays:
                arms = _taught(opened, vertical, delay, late, settings)
                for cell in delay.cells:
                    report.add(f"delay_{late}_{vertical}_{cell}_ne", arms.metric(cell, "ne"))
                    if cell != BASE:
                        add_interval(report, f"delay_{late}_{vertical}_{cell}_gain", arms.gain(cell))
                        lines.setdefault(f"{vertical} {cell}", []).append((late, arms.gain(cell).value))
                values = [number(arms.metric(cell, "ne")) for cell in (*delay.cells, FM)]
                rows.append([vertical, str(late), *values])
    head = ["vertical", "partitions of delay", *delay.cells, "the teacher itself"]
    output.table("freshness_delay", f"NE over the teacher's age, {seeds_note(settings.seeds)}", head, rows)
    output.plot("freshness_delay", ("partitions of delay", "NE gain over base"), lines)


def _taught(
    opened: Experiment, vertical: str, delay: DelaySettings, late: int, settings: FreshnessSettings
) -> ArmScores:
    windows, seeds = delayed(opened.windows, late), range(settings.seeds)
    by_arm = {
        cell: [opened.run(vertical, opened.world.cell(of), seed, windows).scores for seed in seeds]
        for cell, of in delay.cells.items()
    }
    like = next(iter(by_arm.values()))[0]
    by_arm[FM] = [opened.fm(vertical, opened.space(seed, windows=windows), like) for seed in seeds]
    return ArmScores(by_arm, settings.bootstrap)


if __name__ == "__main__":
    sys.exit(experiment_benchmark("freshness", SETTINGS, body))
