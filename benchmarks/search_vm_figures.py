"""Figures of ``search_vm``: whether the run was the issue's protocol, and what it found.

The targets on searches, trials and retrainings are the protocol's own sizes: a smaller run prints them short.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import Report, at_least, at_most
from models.bootstrap import paired_difference
from models.metrics import Scores, normalized_entropy
from search.ens.proposer import Acceptable
from search.trial import Trial, best, done

BOOTSTRAP = 400


@dataclass(frozen=True)
class Retrained:
    """A VM trained on fresh seeds: its ``scores`` on the test window, one a seed, and its ``flops`` an example."""

    scores: list[Scores]
    flops: float


@dataclass(frozen=True)
class Compared:
    """One search by each method, and the VM set by hand on the same seeds.

    ``histories``: every trial, by method. ``bar``: validation NE and FLOPs of the VM set by hand. ``budget``:
    sample-epochs that each compared search is cut at. ``winners``: of the compared searches; None where the search has
    none within budget and FLOPs.
    """

    histories: dict[str, list[Trial]]
    bar: Acceptable
    budget: float
    hand: Retrained
    winners: dict[str, Retrained | None]


def spent(history: Sequence[Trial]) -> float:
    """Sample-epochs of a whole search."""
    return sum(trial.spent for trial in history)


def within(history: Sequence[Trial], budget: float) -> list[Trial]:
    """The first trials, as many as ``budget`` sample-epochs pay for."""
    totals = np.cumsum([trial.spent for trial in history])
    return [trial for trial, total in zip(history, totals, strict=True) if total <= budget]


def chosen_within(history: Sequence[Trial], budget: float, flops: float) -> Trial | None:
    """The lowest validation NE among the trials ``within`` a budget, at most ``flops`` each."""
    return best([trial for trial in done(within(history, budget)) if (trial.flops or 0.0) <= flops])


def add_spent(seed: int, one: Compared, report: Report) -> None:
    """What each search used up, and where the compared ones are cut."""
    for method, history in one.histories.items():
        report.add(f"{method}_{seed}_sample_epochs", spent(history))
    report.add(f"equal_budget_{seed}_sample_epochs", one.budget)


def add_protocol(compared: Sequence[Compared], report: Report) -> None:
    """Sizes of what was run, and the conditions on its winners."""
    winners = [(one, winner) for one in compared for winner in one.winners.values()]
    found = [(one, winner) for one, winner in winners if winner is not None]
    vms = [one.hand for one in compared] + [winner for _, winner in found]
    report.add("searches", len(compared), at_least(3))
    report.add("trials", min(len(history) for one in compared for history in one.histories.values()), at_least(100))
    report.add("retrains", min(len(vm.scores) for vm in vms), at_least(3))
    worst = max((winner.flops / one.hand.flops for one, winner in found), default=math.nan)
    report.add("winner_flops_over_hand", worst, at_most(1))
    report.add("searches_without_winner", len(winners) - len(found), at_most(0))


def add_differences(method: str, compared: Sequence[Compared], report: Report) -> None:
    """Test NE of winners and VMs set by hand, and of ``method``'s winners less that of the others."""
    hand = [one.hand for one in compared]
    ours, random = ([one.winners[name] for one in compared] for name in (method, "random"))
    for name, tested in (("hand", hand), (method, ours), ("random", random)):
        report.add(f"{name}_test_ne", _mean_ne(tested))
    _add_difference(f"{method}_minus_hand", ours, hand, report, on_high=True)
    _add_difference(f"{method}_minus_random", ours, random, report, on_high=False)


def add_acceptable(compared: Sequence[Compared], report: Report) -> None:
    """Acceptable configurations that ENS and random search found in as many sample-epochs as the cheaper one took."""
    found = {"ens": 0, "random": 0}
    for one in compared:
        budget = min(spent(one.histories[method]) for method in found)
        for method in found:
            found[method] += sum(map(one.bar, within(one.histories[method], budget)))
    report.add("ens_acceptable", found["ens"])
    report.add("random_acceptable", found["random"])
    report.add("ens_more_acceptable", found["ens"] - found["random"], at_least(1))


def _mean_ne(tested: Sequence[Retrained | None]) -> float:
    """Over all seeds of the VMs that there are; nan where there is none."""
    scores = [one for of in tested if of is not None for one in of.scores]
    return float(np.mean([normalized_entropy(s.label, s.p, s.weight) for s in scores])) if scores else math.nan


def _add_difference(
    name: str, ours: Sequence[Retrained | None], theirs: Sequence[Retrained | None], report: Report, *, on_high: bool
) -> None:
    """NE of ours less theirs over the searches that have both; the target is on the interval's end or on the mean.

    Retrainings of one winner share its search: they are drawn as a group.
    """
    pairs = [(search, a, b) for search, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a and b]
    rows = [(search, x, y) for search, a, b in pairs for x, y in zip(a.scores, b.scores, strict=True)]
    if rows:
        groups, x, y = zip(*rows, strict=True)
        mean, low, high, *_ = paired_difference("ne", x, y, BOOTSTRAP, groups=groups)
    else:
        mean = low = high = math.nan
    report.add(f"{name}_ne", mean, None if on_high else at_most(0.0))
    report.add(f"{name}_ne_low", low)
    report.add(f"{name}_ne_high", high, at_most(0.0) if on_high else None)
