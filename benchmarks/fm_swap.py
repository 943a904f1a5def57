"""What a swap of the FM costs: the old FM's VM, unchanged, on histories of a new one, through every kind of map.

The new FM starts from another initialisation and is trained one window later; a third one is trained on that later
window from the old one's weights (warm start). Method section 4, lesson 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import torch
from pydantic import Field

from benchmarks.experiment_figures import CONTROL, ArmScores, add_interval
from benchmarks.experiment_output import Output, number, percent, seeds_note
from benchmarks.experiments import CellSettings, Experiment
from benchmarks.harness import BenchmarkError, Report, at_least
from feature_store.config import Strict
from feature_store.spaces import SpaceRecord
from models.alignment import KINDS, Alignment, MapKind, SpaceCodes, SpaceMap
from models.errors import SpaceMismatchError
from models.metrics import Scores
from models.vm_artifact import VmArtifact
from pipelines.align import SharedExamples, fit_kinds, reconstructions, shared_examples
from pipelines.align_choice import NE, HeldOut, Quality, best_kind
from pipelines.evaluate import ALL_KNOWN
from pipelines.fm_chain import WARM_FROM
from pipelines.scoring import score_parts
from pipelines.train_vm import load_trained
from pipelines.windows import RunWindows

NATIVE, UNMAPPED, KEPT = "native", "no map", "the map kept"
WARM = "warm start, "
RECOVERED = 0.90


class SwapSettings(Strict):
    """A new FM from another initialisation (seed + ``seed_step``), trained ``later`` partitions after the old one.

    ``warm``: also one of the old one's seed that starts from its weights.
    """

    later: int = Field(ge=1)
    seed_step: int = Field(default=100, ge=1)
    warm: bool = True


@dataclass(frozen=True)
class Swapped:
    """One seed of a swap: the VM, the two spaces, and the examples that both hold before the test."""

    opened: Experiment
    vertical: str
    run_id: str
    artifact: VmArtifact
    old: SpaceRecord
    new: SpaceRecord
    parts: list[str]

    @cached_property
    def shared(self) -> SharedExamples:
        """Examples with vectors in both spaces."""
        return shared_examples(self.opened.context, self.new, self.old, self.parts)

    def scores(self, alignment: Alignment | None) -> Scores:
        """The VM on the test window, histories of the new space read through a map."""
        parts = self.opened.test_parts(self.vertical)
        context = self.opened.context
        return score_parts(context, self.vertical, self.artifact, self.new, parts, ALL_KNOWN, alignment)

    def fitted(self) -> tuple[dict[MapKind, Alignment], MapKind]:
        """A map of every kind, and the one kept: by the VM's NE on held-out rows, then by reconstruction."""
        maps = fit_kinds(self.shared, self.new, self.old)
        rows = HeldOut(self.parts, self.shared.held_out_from).of(self.opened.context, self.new)
        quality: Quality = reconstructions(maps, self.shared)
        for kind, alignment in maps.items():
            ne = rows.ne(self.opened.context, {self.vertical: self.run_id}, self.new, alignment)
            quality[kind][NE] = fmean(ne.values())
        return maps, best_kind(quality)

    def unmapped(self) -> Alignment:
        """Vectors as they are, as if the spaces were one."""
        spaces = [SpaceCodes(space.space_id, space.dim, space.bits) for space in (self.new, self.old)]
        same = SpaceMap(self.new.dim, self.old.dim)
        with torch.no_grad():
            same.linear.weight.copy_(torch.eye(self.new.dim))
            same.linear.bias.zero_()
        return Alignment("linear", spaces[0], spaces[1], self.shared.newest, same.eval())

    def refused(self) -> bool:
        """Whether the VM refuses histories of the new space that no map takes to its own."""
        try:
            self.scores(None)
        except SpaceMismatchError:
            return True
        return False


def later(windows: RunWindows, parts: int) -> RunWindows:
    """Windows of an FM that ends ``parts`` partitions later, whose outputs begin there.

    It may end within the VM's training window: no VM is trained on its space, its later rows fit the maps.

    Raises:
        BenchmarkError: no partition of the VM's training window would be left.
    """
    rows, train, stop = windows.fm + windows.warm_up + windows.vm_train, len(windows.fm_train), parts + len(windows.fm)
    left = [part for part in windows.vm_train if part in set(rows[stop:])]
    if not left:
        most = len(rows) - len(windows.fm) - 1
        raise BenchmarkError(f"swap.later: got {parts}; allowed: 1 .. {most}, before the last of the VM's training")
    return replace(
        windows,
        fm_train=rows[parts : parts + train],
        fm_validation=rows[parts + train : stop],
        warm_up=[part for part in windows.warm_up if part in set(rows[stop:])],
        vm_train=left,
    )


def add_swap(
    opened: Experiment,
    vertical: str,
    cells: tuple[CellSettings, CellSettings],
    swap: SwapSettings,
    seeds: int,
    bootstrap: int,
    output: Output,
) -> None:
    """Scores, figures and the table of a swap.

    Args:
        opened: the experiment.
        vertical: whose VM.
        cells: the VM's, and its control's.
        swap: which new FMs.
        seeds: of both FMs.
        bootstrap: resamples for an interval.
        output: gets the table.
    """
    by_arm: dict[str, list[Scores]] = {}
    for seed in range(seeds):
        for name, scores in _one_seed(opened, vertical, cells, swap, seed).items():
            by_arm.setdefault(name, []).append(scores)
    arms = ArmScores(by_arm, bootstrap)
    _table(vertical, arms, opened.report, output)
    recovered = arms.share(KEPT, CONTROL, NATIVE).value
    opened.report.add(
        f"{vertical}_alignment_recovered", 0.0 if math.isnan(recovered) else recovered, at_least(RECOVERED)
    )


def _one_seed(
    opened: Experiment, vertical: str, cells: tuple[CellSettings, CellSettings], swap: SwapSettings, seed: int
) -> dict[str, Scores]:
    reference, control = cells
    old, windows = opened.space(seed), later(opened.windows, swap.later)
    run_id = opened.vm(vertical, reference, seed, old).run_id
    artifact = load_trained(opened.context, run_id)
    found = {
        CONTROL: opened.run(vertical, control, seed).scores,
        NATIVE: opened.run(vertical, reference, seed).scores,
    }
    parts = windows.vm_train + windows.vm_validation

    def swapped(new: SpaceRecord) -> Swapped:
        return Swapped(opened, vertical, run_id, artifact, old, new, parts)

    fresh = swapped(opened.space(seed + swap.seed_step, windows=windows))
    opened.report.add(f"{vertical}_mixed_spaces_refused_{seed}", float(fresh.refused()), at_least(1))
    found |= _through(fresh, "", opened.report, seed)
    if swap.warm:
        warm = opened.space(seed, {"fm.warm_start": True}, windows)
        start = opened.context.registry.run_tags(warm.run_id)[WARM_FROM]
        if start != old.space_id:
            raise BenchmarkError(f"swap.warm: FM {warm.space_id} started from {start}, not from {old.space_id}")
        found |= _through(swapped(warm), WARM, opened.report, seed)
    return found


def _through(swapped: Swapped, prefix: str, report: Report, seed: int) -> dict[str, Scores]:
    maps, kept = swapped.fitted()
    report.say(f"{swapped.vertical}: seed {seed}: {prefix}{kept} is kept")
    found = {f"{prefix}{UNMAPPED}": swapped.scores(swapped.unmapped())}
    found |= {f"{prefix}{kind}": swapped.scores(alignment) for kind, alignment in maps.items()}
    return found | {f"{prefix}{KEPT}": found[f"{prefix}{kept}"]}


def _table(vertical: str, arms: ArmScores, report: Report, output: Output) -> None:
    rows = []
    for arm in arms.by_arm:
        share = arms.share(arm, CONTROL, NATIVE)
        rows.append([arm, number(arms.metric(arm, "ne")), percent(share.value)])
        if arm in KINDS:
            add_interval(report, f"{vertical}_{arm}_recovered", share)
        elif arm not in (CONTROL, NATIVE):
            report.add(f"{vertical}_{arm.replace(',', '').replace(' ', '_')}_recovered", share.value)
    title = f"{vertical}: the FM swapped, {seeds_note(arms.seeds)}"
    output.table(f"ablation_{vertical}_swap", title, ["histories", "NE", "of the native gain over the control"], rows)
