"""Figures of experiments: metrics of arms, paired intervals and transfer ratios over seeds of one vertical."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.harness import Report, at_most
from models.bootstrap import BootstrapMetric, PairedDifference, paired_difference
from models.metrics import Scores, evaluate, transfer_ratio
from pipelines.measure import BATCH_FM_ARM
from pipelines.report_data import COVERAGE

BASE, FM, CONTROL = "base", "fm", "control"
CALIBRATED_FM = "fm calibrated"
"""The FM, its logit shifted to fit the VM's validation window as VMs are: what is off in the mean gains too little."""
CLAIM_SEEDS = 3
NO_CLAIM = "fewer than 3 seeds: not a claim"


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmScores:
    """Scores of the same test rows by every arm, one element a seed; ``fm`` is the FM itself.

    Args:
        by_arm: arm -> scores by seed.
        bootstrap: resamples of seeds and users for an interval.
    """

    by_arm: Mapping[str, Sequence[Scores]]
    bootstrap: int = 200

    @cached_property
    def _metrics(self) -> dict[str, list[dict[str, float]]]:
        return {arm: [evaluate(one) for one in scores] for arm, scores in self.by_arm.items()}

    @property
    def seeds(self) -> int:
        """Seeds of the arm that has most."""
        return max(len(scores) for scores in self.by_arm.values())

    def metric(self, arm: str, name: str) -> float:
        """Mean over the seeds."""
        return self.mean_of(arm, name, float)

    def mean_of(self, arm: str, name: str, of: Callable[[float], float]) -> float:
        """Mean over the seeds of a function of a metric: what is off up in one seed and down in another is off."""
        values = [of(metrics[name]) for metrics in self._metrics[arm]]
        return math.fsum(values) / len(values)

    @property
    def coverage(self) -> dict[str, float]:
        """Share of the rows that see a token, by tokens and key (``fm_item``) of which some arm reads histories."""
        found: dict[str, float] = {}
        for arm, by_seed in self._metrics.items():
            for name in by_seed[0]:
                if name.startswith(COVERAGE):
                    found.setdefault(name.removeprefix(COVERAGE), self.metric(arm, name))
        return found

    def difference(self, arm: str, other: str, metric: BootstrapMetric = "ne", level: float = 0.95) -> PairedDifference:
        """metric(arm) - metric(other) over the seeds that both have."""
        a, b = self.by_arm[arm], self.by_arm[other]
        seeds = min(len(a), len(b))
        return paired_difference(metric, a[:seeds], b[:seeds], self.bootstrap, level=level)

    def gain(self, arm: str, over: str = BASE) -> Interval:
        """NE(over) - NE(arm): positive where the arm is better."""
        found = self.difference(arm, over)
        return Interval(-found.mean, -found.high, -found.low)

    def share(self, arm: str, over: str = BASE, of: str = FM) -> Interval:
        """Transfer ratio: the share of ``of``'s gain over ``over`` that the arm keeps; that gain is held at its mean.

        nan where it is under 3 of its standard errors (method section 6).
        """
        return self._in_gains(self.gain(arm, over), over, of)

    def share_difference(self, arm: str, other: str) -> Interval:
        """Transfer ratio of one arm less that of another; nan where ``share`` is."""
        return self._in_gains(self.gain(arm, other), BASE, FM)

    def _in_gains(self, own: Interval, over: str, of: str) -> Interval:
        whole = self.difference(of, over)
        if transfer_ratio(-whole.mean, 0.0, 0.0, whole.se) is None:
            return Interval(math.nan, math.nan, math.nan)
        return Interval(*(value / -whole.mean for value in (own.value, own.low, own.high)))


def add_interval(report: Report, name: str, interval: Interval) -> None:
    """Record a value and the ends of its interval."""
    report.add(name, interval.value)
    report.add(f"{name}_low", interval.low)
    report.add(f"{name}_high", interval.high)


def add_shares_of_others(report: Report, name: str, arms: ArmScores, arm: str) -> None:
    """Record an arm's transfer ratios against other wholes than the FM: calibrated, and on batch features if there."""
    report.add(f"{name}_tr_of_calibrated_fm", arms.share(arm, of=CALIBRATED_FM).value)
    if BATCH_FM_ARM in arms.by_arm:
        report.add(f"{name}_tr_of_batch_fm", arms.share(arm, of=BATCH_FM_ARM).value)


def add_batch_fm(report: Report, name: str, arms: ArmScores) -> None:
    """Record what the FM on batch features keeps of the FM's gain, where there is one."""
    if BATCH_FM_ARM in arms.by_arm:
        report.add(f"{name}_batch_fm_tr", arms.share(BATCH_FM_ARM).value)


def add_equal_within(report: Report, name: str, difference: PairedDifference, limit: float) -> None:
    """Record how far a 90 % interval of a paired difference reaches from 0: equal within ``limit`` or not."""
    report.add(f"{name}_difference", difference.mean)
    report.add(f"{name}_within", max(abs(difference.low), abs(difference.high)), at_most(limit))
