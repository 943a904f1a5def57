"""Which choices of LoopFM are free and which are not, each against one reference; and what a swap of the FM costs.

A cell below ``fm`` trains the same FM with another codec or capture, from the same seeds. Method sections 4 and 6.
"""

from __future__ import annotations

import sys

from pydantic import Field

from benchmarks.experiment_figures import BASE, CONTROL, ArmScores, Interval, add_equal_within
from benchmarks.experiment_output import Output, experiment_benchmark, number, seeds_note, with_interval
from benchmarks.experiments import CellSettings, Experiment, SeedSettings, WorldSettings, experiment, run_cells
from benchmarks.fm_swap import SwapSettings, add_swap
from benchmarks.harness import BenchmarkError, Report
from feature_store.config import Name

REFERENCE = "reference"
EQUAL = {"float": 0.001, "d64": 0.002}
"""Cells that must equal the reference, and within what NE."""
FREE_WITHIN = 0.002
"""A choice whose 95 % interval stays inside is free: repeated runs differ by as much."""


class AblationSettings(SeedSettings):
    """``cells``: variants of LoopFM by name; ``reference``, ``base`` and ``control`` are required.

    ``equal_seeds``: VM seeds on each FM for the cells that must equal the reference.
    """

    world: WorldSettings
    cells: dict[Name, CellSettings]
    equal_seeds: int = Field(default=1, ge=1)
    swap: SwapSettings | None = None


SETTINGS = AblationSettings


def body(settings: AblationSettings, report: Report, output: Output) -> None:
    """All cells of every vertical, then the swap.

    Raises:
        MissingDataError: the data set is not there.
        BenchmarkError: a required cell is not declared.
    """
    if missing := sorted({REFERENCE, BASE, CONTROL} - set(settings.cells)):
        raise BenchmarkError(f"cells: {missing} are missing")
    with experiment(settings.world, report) as opened:
        for vertical in opened.verticals:
            scored = run_cells(opened, vertical, settings.cells, range(settings.seeds))
            arms = ArmScores({cell: [one.scores for one in of] for cell, of in scored.items()}, settings.bootstrap)
            _cells(vertical, arms, report, output)
            _equal(opened, vertical, settings)
            if settings.swap is not None:
                pair = (opened.world.cell(settings.cells[REFERENCE]), opened.world.cell(settings.cells[CONTROL]))
                add_swap(opened, vertical, pair, settings.swap, settings.seeds, settings.bootstrap, output)


def _cells(vertical: str, arms: ArmScores, report: Report, output: Output) -> None:
    rows = []
    for cell in arms.by_arm:
        loss = arms.difference(cell, REFERENCE)
        against = "" if cell == REFERENCE else with_interval(Interval(loss.mean, loss.low, loss.high))
        found = "" if cell == REFERENCE else verdict(loss.low, loss.high)
        rows.append([cell, number(arms.metric(cell, "ne")), against, found, number(arms.metric(cell, "auc"))])
        report.add(f"{vertical}_{cell}_ne", arms.metric(cell, "ne"))
    points = [(place, arms.metric(cell, "ne")) for place, cell in enumerate(arms.by_arm)]
    output.plot(f"ablation_{vertical}", ("", "NE"), {vertical: points}, list(arms.by_arm), joined=False)
    title = f"{vertical}, {seeds_note(arms.seeds)}"
    output.table(f"ablation_{vertical}", title, ["cell", "NE", "against the reference (95 %)", "", "AUC"], rows)


def verdict(low: float, high: float) -> str:
    """What the 95 % interval of NE less the reference's says of a choice."""
    if low >= -FREE_WITHIN and high <= FREE_WITHIN:
        return "free"
    if low > 0:
        return "costs"
    return "gains" if high < 0 else "not told apart"


def _equal(opened: Experiment, vertical: str, settings: AblationSettings) -> None:
    """Figures of the cells that must equal the reference: the same FM, then as many VM seeds as are asked for."""
    pairs = [
        (seed, seed + settings.seeds * place) for seed in range(settings.seeds) for place in range(settings.equal_seeds)
    ]
    by_arm = {
        name: [opened.run(vertical, opened.world.cell(settings.cells[name]), fm, vm_seed=vm).scores for fm, vm in pairs]
        for name in (REFERENCE, *EQUAL)
        if name in settings.cells
    }
    arms = ArmScores(by_arm, settings.bootstrap)
    for cell in by_arm:
        if cell != REFERENCE:
            add_equal_within(
                opened.report, f"{vertical}_{cell}", arms.difference(cell, REFERENCE, level=0.90), EQUAL[cell]
            )


if __name__ == "__main__":
    sys.exit(experiment_benchmark("ablation", SETTINGS, body))
