"""Figures of a comparison: metrics, paired intervals, transfer ratios and slices, as rows of ``evaluations``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.bootstrap import PairedDifference, paired_difference
from models.metrics import Scores, evaluate, transfer_ratio

ALL_ROWS = "all"
FM_ARM = "fm"
BATCH_FM_ARM = "batch_fm"
WORLD_VM = "world_vm"
WORLD_STATE = "world_state"
WORLD_P = "world_p"
VERSUS = {"raw_loopfm": ("raw", "loopfm")}
"""Further arms that an arm is compared with: what each kind of tokens adds to the other (method section 1)."""
BASELINES = {"base": "tr", "counters": "tr_from_counters", "control": "tr_from_control"}
CARRIED = {BATCH_FM_ARM: "tr_of_batch_fm", WORLD_STATE: "tr_of_visible_state"}
"""What a batch could carry at all, in the FM's place."""
MIN_SLICE_POSITIVES = 20


@dataclass(frozen=True)
class Figure:
    """One measured value of one arm on one slice of the rows; ``low`` and ``high`` bound a paired difference."""

    arm: str
    slice: str
    metric: str
    value: float
    rows: int
    low: float = math.nan
    high: float = math.nan
    seed: int | None = None


@dataclass
class Comparison:
    """Scores of every arm on the same rows, one element a seed.

    Args:
        arms: arm -> scores by seed; ``fm`` is the FM itself. Scores of all arms hold the same examples.
        slices: name -> example ids, besides all rows.
        bootstrap: resamples of users for each interval.
    """

    arms: Mapping[str, Sequence[Scores]]
    slices: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    bootstrap: int = 200

    def figures(self) -> Iterator[Figure]:
        """All figures: of each arm alone, of each pair that is claimed, and of each slice."""
        for arm, scores in self.arms.items():
            yield from _metrics(arm, ALL_ROWS, scores)
            yield from self._differences(arm, scores)
        yield from self._transfer()
        for name, members in self.slices.items():
            yield from self._slice(name, members)

    def _differences(self, arm: str, scores: Sequence[Scores]) -> Iterator[Figure]:
        for other in ("base", "control", *VERSUS.get(arm, ())):
            if other in self.arms and arm != other:
                for metric in ("ne", "gauc"):
                    difference = self._paired(metric, scores, self.arms[other])
                    yield _figure(arm, f"{metric}_minus_{other}", difference, len(scores[0]))

    def _paired(self, metric: str, a: Sequence[Scores], b: Sequence[Scores]) -> PairedDifference:
        seeds = min(len(a), len(b))
        return paired_difference(metric, a[:seeds], b[:seeds], self.bootstrap)  # type: ignore[arg-type]

    def _transfer(self) -> Iterator[Figure]:
        for baseline, metric in BASELINES.items():
            yield from self._ratios(metric, baseline, FM_ARM)
        for carrier, metric in CARRIED.items():
            yield from self._ratios(metric, "base", carrier)

    def _ratios(self, metric: str, baseline: str, whole: str) -> Iterator[Figure]:
        """Share of the gain of ``whole`` over ``baseline`` that each arm has."""
        if not {baseline, whole} <= set(self.arms):
            return
        gain = self._paired("ne", self.arms[baseline], self.arms[whole])
        for arm, scores in self.arms.items():
            if arm == baseline:
                continue
            arm_gain = self._paired("ne", self.arms[baseline], scores)
            ratio = transfer_ratio(gain.mean, gain.mean - arm_gain.mean, 0.0, gain.se)
            yield Figure(arm, ALL_ROWS, metric, math.nan if ratio is None else ratio, len(scores[0]))

    def _slice(self, name: str, members: NDArray[np.int64]) -> Iterator[Figure]:
        for arm, scores in self.arms.items():
            cut = [s.take(np.isin(s.example_id, members)) for s in scores]
            if min(s.label.sum() for s in cut) >= MIN_SLICE_POSITIVES:
                yield from _metrics(arm, name, cut)


def _metrics(arm: str, slice_name: str, scores: Sequence[Scores]) -> Iterator[Figure]:
    by_seed = [evaluate(s) for s in scores]
    for metric in by_seed[0]:
        values = np.array([figures[metric] for figures in by_seed])
        mean = float(np.mean(values))
        yield Figure(arm, slice_name, metric, mean, len(scores[0]))
        if len(values) > 1 and slice_name == ALL_ROWS:
            for seed, value in enumerate(values):
                yield Figure(arm, slice_name, metric, float(value), len(scores[0]), seed=seed)


def _figure(arm: str, metric: str, difference: PairedDifference, rows: int) -> Figure:
    return Figure(arm, ALL_ROWS, metric, difference.mean, rows, difference.low, difference.high)


def activity_slices(
    entity: str, ids: NDArray[np.int64], examples: NDArray[np.int64], train_ids: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """Example ids of new, light and heavy users or items: unseen in VM training, at most or above the median seen.

    Args:
        entity: ``user`` or ``item``.
        ids: entity of each evaluated row [N].
        examples: example id of each evaluated row [N].
        train_ids: entity of each row of the VM's training window.
    """
    known, counts = np.unique(train_ids, return_counts=True)
    place = np.clip(np.searchsorted(known, ids), 0, max(len(known) - 1, 0))
    seen = np.where(known[place] == ids, counts[place], 0) if len(known) else np.zeros(len(ids), np.int64)
    median = np.median(seen[seen > 0]) if (seen > 0).any() else 0
    masks = {"new": seen == 0, "light": (seen > 0) & (seen <= median), "heavy": seen > median}
    return {f"{entity}: {name}": examples[mask] for name, mask in masks.items() if mask.any()}
