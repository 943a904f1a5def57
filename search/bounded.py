"""Methods that look for one best VM, kept to a number of FLOPs: above it no trial can win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from search.proposer import Proposer, Shortening
from search.space import Config
from search.trial import Trial, done, value

LARGEST_EXCESS = 1.0
"""Excess over the bound, as a share of it, above which more FLOPs make nothing worse."""


class WithinFlops:
    """A method that is told another NE of trials above ``flops``: worse than the worst, and worse the more they need.

    The search keeps the NE that was measured; only what the method learns from is changed.
    """

    def __init__(self, method: Proposer, flops: float) -> None:
        self.method, self.flops = method, flops
        self.space = method.space
        self.seed = getattr(method, "seed", None)

    @property
    def name(self) -> str:
        """The method's."""
        return type(self.method).__name__

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """See ``Proposer.ask``."""
        return self.method.ask(charged(history, self.flops), budget_left, k)

    def tell(self, trials: Sequence[Trial]) -> None:
        """See ``Proposer.tell``."""
        self.method.tell(trials)

    def share(self, trial_id: int, budget: int) -> float:
        """See ``Shortening.share``."""
        return self.method.share(trial_id, budget) if isinstance(self.method, Shortening) else 1.0

    def state_dict(self) -> dict[str, Any]:
        """The method's."""
        return self.method.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``'s answer."""
        self.method.load_state_dict(state)


def charged(history: Sequence[Trial], flops: float) -> list[Trial]:
    """The history with every done trial above ``flops`` at an NE above all others, growing with the excess."""
    found = [value(trial) for trial in done(history)]
    if not found:
        return list(history)
    worst, spread = max(found), (max(found) - min(found)) or abs(max(found)) or 1.0
    return [_charged(trial, flops, worst, spread) for trial in history]


def _charged(trial: Trial, flops: float, worst: float, spread: float) -> Trial:
    if trial.state != "done" or trial.flops is None or trial.flops <= flops:
        return trial
    excess = min(trial.flops / flops - 1, LARGEST_EXCESS) if flops > 0 else LARGEST_EXCESS
    return replace(trial, ne=worst + excess * spread, curve=(), horizon=None)
