"""Which choices of LoopFM are free and which are not, each against one reference; and what a swap of the FM costs.

A cell below ``fm`` trains the same FM with another codec or capture, from the same seeds. Method sections 4 and 6.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace

from pydantic import Field

from benchmarks.experiment_figures import BASE, CONTROL, ArmScores, Interval, add_equal_within, add_interval
from benchmarks.experiment_output import Output, experiment_benchmark, number, percent, seeds_note, with_interval
from benchmarks.experiments import CellSettings, Experiment, SeedSettings, WorldSettings, experiment, run_cells
from benchmarks.harness import BenchmarkError, Report, at_least
from feature_store.config import Name, Strict
from feature_store.spaces import SpaceRecord
from models.alignment import KINDS, Alignment
from models.errors import SpaceMismatchError
from models.metrics import Scores
from models.vm_artifact import VmArtifact
from pipelines.align import fit_best, fit_kinds, shared_examples
from pipelines.evaluate import ALL_KNOWN
from pipelines.scoring import score_parts
from pipelines.train_vm import load_trained
from pipelines.windows import RunWindows

REFERENCE, NATIVE = "reference", "native"
EQUAL = {"float": 0.001, "d64": 0.002}
"""Cells that must equal the reference, and within what NE."""
RECOVERED = 0.90


class SwapSettings(Strict):
    """A new FM from another initialisation (seed + ``seed_step``), trained ``later`` partitions after the old one."""

    later: int = Field(ge=1)
    seed_step: int = Field(default=100, ge=1)


class AblationSettings(SeedSettings):
    """``cells``: variants of LoopFM by name; ``reference``, ``base`` and ``control`` are required."""

    world: WorldSettings
    cells: dict[Name, CellSettings]
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
            if settings.swap is not None:
                _swap(opened, vertical, settings, settings.swap, output)


def _cells(vertical: str, arms: ArmScores, report: Report, output: Output) -> None:
    rows = []
    for cell in arms.by_arm:
        loss = arms.difference(cell, REFERENCE)
        against = "" if cell == REFERENCE else with_interval(Interval(loss.mean, loss.low, loss.high))
        rows.append([cell, number(arms.metric(cell, "ne")), against, number(arms.metric(cell, "auc"))])
        report.add(f"{vertical}_{cell}_ne", arms.metric(cell, "ne"))
        if cell in EQUAL:
            add_equal_within(report, f"{vertical}_{cell}", arms.difference(cell, REFERENCE, level=0.90), EQUAL[cell])
    points = [(place, arms.metric(cell, "ne")) for place, cell in enumerate(arms.by_arm)]
    output.plot(f"ablation_{vertical}", ("", "NE"), {vertical: points}, list(arms.by_arm), joined=False)
    title = f"{vertical}, {seeds_note(arms.seeds)}"
    output.table(f"ablation_{vertical}", title, ["cell", "NE", "against the reference (95 %)", "AUC"], rows)


def later(windows: RunWindows, parts: int) -> RunWindows:
    """Windows of an FM that ends ``parts`` partitions later; its outputs begin there.

    Raises:
        BenchmarkError: it would end within the VM's window.
    """
    if parts > len(windows.warm_up):
        raise BenchmarkError(
            f"swap.later: got {parts}; allowed: 1 .. {len(windows.warm_up)}, what windows.warm_up holds"
        )
    rows, train = windows.fm + windows.warm_up, len(windows.fm_train)
    stop = parts + len(windows.fm)
    return replace(
        windows, fm_train=rows[parts : parts + train], fm_validation=rows[parts + train : stop], warm_up=rows[stop:]
    )


def _swap(opened: Experiment, vertical: str, settings: AblationSettings, swap: SwapSettings, output: Output) -> None:
    """The old FM's VM, unchanged, on histories of the new FM that each kind of map takes to the old space."""
    report = opened.report
    by_arm: dict[str, list[Scores]] = {}
    best: list[str] = []
    for seed in range(settings.seeds):
        old = opened.space(seed)
        new = opened.space(seed + swap.seed_step, windows=later(opened.windows, swap.later))
        trained = opened.vm(vertical, settings.cells[REFERENCE], seed, old)
        artifact = load_trained(opened.context, trained.run_id)
        shared = shared_examples(opened.context, new, old, opened.windows.vm_train + opened.windows.vm_validation)
        best.append(fit_best(shared, new, old)[0].kind)
        for kind, alignment in fit_kinds(shared, new, old).items():
            by_arm.setdefault(kind, []).append(_scores(opened, vertical, artifact, new, alignment))
        by_arm.setdefault(NATIVE, []).append(opened.run(vertical, settings.cells[REFERENCE], seed).scores)
        by_arm.setdefault(CONTROL, []).append(opened.run(vertical, settings.cells[CONTROL], seed).scores)
        report.add(f"{vertical}_mixed_spaces_refused_{seed}", _refused(opened, vertical, artifact, new), at_least(1))
    arms = ArmScores(by_arm, settings.bootstrap)
    rows = [[CONTROL, number(arms.metric(CONTROL, "ne")), ""], [NATIVE, number(arms.metric(NATIVE, "ne")), "100 %"]]
    for kind in KINDS:
        share = arms.share(kind, CONTROL, NATIVE)
        rows.append([kind, number(arms.metric(kind, "ne")), percent(share.value)])
        add_interval(report, f"{vertical}_{kind}_recovered", share)
    kept = max(set(best), key=best.count)
    report.say(f"{vertical}: the kind of the best held-out reconstruction is {kept}")
    recovered = arms.share(kept, CONTROL, NATIVE).value
    report.add(f"{vertical}_alignment_recovered", recovered if not math.isnan(recovered) else 0.0, at_least(RECOVERED))
    title = f"{vertical}: the FM swapped, {seeds_note(arms.seeds)}; kept by reconstruction: {kept}"
    output.table(f"ablation_{vertical}_swap", title, ["map", "NE", "of the native gain over the control"], rows)


def _scores(
    opened: Experiment, vertical: str, artifact: VmArtifact, space: SpaceRecord, alignment: Alignment | None
) -> Scores:
    parts = opened.test_parts(vertical)
    return score_parts(opened.context, vertical, artifact, space, parts, ALL_KNOWN, alignment)


def _refused(opened: Experiment, vertical: str, artifact: VmArtifact, space: SpaceRecord) -> bool:
    """Whether the VM refuses histories of another space that no map takes to its own."""
    try:
        _scores(opened, vertical, artifact, space, None)
    except SpaceMismatchError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(experiment_benchmark("ablation", SETTINGS, body))
