"""What KD and LoopFM keep of the FM's gain as the FM grows (the paper's claim: KD's share falls, LoopFM's holds)."""

from __future__ import annotations

import sys
from typing import Any

from pydantic import Field

from benchmarks.experiment_figures import BASE, CONTROL, FM, ArmScores
from benchmarks.experiment_output import Output, experiment_benchmark, number, percent, seeds_note
from benchmarks.experiments import CellSettings, Experiment, SeedSettings, WorldSettings, each_world, experiment
from benchmarks.harness import Report
from feature_store.config import Name
from models.fm_refresh import read_fm
from models.metrics import Scores
from pipelines.config import Arm
from pipelines.fm_model import fm_files

TAUGHT: tuple[Arm, ...] = ("kd", "loopfm", "loopfm_kd")
ALONE: tuple[Arm, ...] = ("base", "control")


class ScalingSettings(SeedSettings):
    """``worlds``: projects to grow the FM of; ``sizes``: name -> changes of a project's ``fm``, smallest first."""

    worlds: dict[Name, WorldSettings] = Field(min_length=1)
    sizes: dict[Name, dict[str, Any]] = Field(min_length=2)


SETTINGS = ScalingSettings


def body(settings: ScalingSettings, report: Report, output: Output) -> None:
    """Every size in turn on one set of tables a world; a data set that is not there is named and left out.

    Raises:
        MissingDataError: none of the data sets is there.
    """
    each_world(settings.worlds, report, lambda name, world: _world(name, world, settings, report, output))


def _world(name: str, world: WorldSettings, settings: ScalingSettings, report: Report, output: Output) -> None:
    with experiment(world, report) as opened:
        for vertical in opened.verticals:
            _vertical(f"{name}_{vertical}", opened, vertical, settings, output)


def _vertical(name: str, opened: Experiment, vertical: str, settings: ScalingSettings, output: Output) -> None:
    """Base and control do not depend on the FM and are trained once."""
    alone: dict[str, list[Scores]] = {arm: _scores(opened, vertical, arm, {}, settings.seeds) for arm in ALONE}
    rows: list[list[str]] = []
    lines: dict[str, list[tuple[float, float]]] = {arm: [] for arm in TAUGHT}
    for size, changes in settings.sizes.items():
        arms = _size(opened, vertical, changes, alone, settings)
        count = parameters(opened, changes)
        rows.append([size, f"{count:,}", *_cells(arms)])
        _figures(f"{name}_{size}", count, arms, opened.report)
        for arm in TAUGHT:
            if (share := arms.share(arm).value) == share:
                lines[arm].append((count, share))
    head = ["size", "parameters", "FM NE", "control", *(f"{arm}: NE, TR [95 %]" for arm in TAUGHT)]
    output.table(f"scaling_{name}", f"{name}: TR over the FM's size, {seeds_note(settings.seeds)}", head, rows)
    drawn = {arm: points for arm, points in lines.items() if points}
    if drawn:
        output.plot(f"scaling_{name}", ("parameters of the FM", "transfer ratio"), drawn, log=True)


def _scores(opened: Experiment, vertical: str, arm: Arm, changes: dict[str, Any], seeds: int) -> list[Scores]:
    cell = opened.world.cell(CellSettings(arm=arm, changes=changes))
    return [opened.run(vertical, cell, seed).scores for seed in range(seeds)]


def _size(
    opened: Experiment,
    vertical: str,
    changes: dict[str, Any],
    alone: dict[str, list[Scores]],
    settings: ScalingSettings,
) -> ArmScores:
    taught: dict[str, list[Scores]] = {arm: _scores(opened, vertical, arm, changes, settings.seeds) for arm in TAUGHT}
    like = alone["base"][0]
    spaces = [opened.space(seed, changes) for seed in range(settings.seeds)]
    own = [opened.fm(vertical, space, like) for space in spaces]
    return ArmScores({**alone, **taught, FM: own}, settings.bootstrap)


def parameters(opened: Experiment, changes: dict[str, Any]) -> int:
    """Weights of the FM of seed 0, its codec included."""
    state = read_fm(fm_files(opened.context, opened.space(0, changes))).state
    return sum(weights.numel() for weights in state.values())


def _cells(arms: ArmScores) -> list[str]:
    cells = [number(arms.metric(FM, "ne")), number(arms.metric(CONTROL, "ne"))]
    for arm in TAUGHT:
        share = arms.share(arm)
        interval = f"{percent(share.value)} [{percent(share.low)}, {percent(share.high)}]"
        cells.append(f"{number(arms.metric(arm, 'ne'))}, {interval}")
    return cells


def _figures(name: str, count: int, arms: ArmScores, report: Report) -> None:
    report.add(f"{name}_parameters", count)
    report.add(f"{name}_fm_gain", arms.gain(FM, BASE).value)
    for arm in TAUGHT:
        report.add(f"{name}_{arm}_tr", arms.share(arm).value)


if __name__ == "__main__":
    sys.exit(experiment_benchmark("scaling", SETTINGS, body))
