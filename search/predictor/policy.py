"""A factorised categorical policy and REINFORCE (Williams 1992; arXiv 2311.07870, section 4).

Shape legend: F decisions, C most choices of a decision, B configurations drawn in one step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from search.parameters import Floats

Choices = npt.NDArray[np.int64]
Reward = Callable[[Choices], Floats]
"""Decisions [B, F] -> rewards [B]."""

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
BASELINE_DECAY = 0.9


@dataclass(frozen=True)
class PolicySettings:
    """Training of the policy. ``entropy``: weight of the mean entropy of its decisions, which keeps it looking."""

    steps: int = 2_000
    batch: int = 16
    learning_rate: float = 0.02
    entropy: float = 0.05


class FactorisedPolicy:
    """Every decision has its own categorical distribution; uniform at first.

    Args:
        factors: choices of each decision [F].
        settings: of the training.
    """

    def __init__(self, factors: tuple[int, ...], settings: PolicySettings = PolicySettings()) -> None:
        self.settings = settings
        self._allowed = np.arange(max(factors)) < np.asarray(factors)[:, None]
        self.logits = np.where(self._allowed, 0.0, -np.inf)

    @property
    def probabilities(self) -> Floats:
        """[F, C]; 0 where a decision has fewer choices."""
        weights = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def draw(self, count: int, rng: np.random.Generator) -> Choices:
        """[count, F]."""
        below = self.probabilities.cumsum(axis=1)[None] <= rng.random((count, len(self.logits), 1))
        return np.minimum(below.sum(axis=2), self._allowed.sum(axis=1) - 1)

    def train(self, reward: Reward, rng: np.random.Generator) -> None:
        """Follow the gradient of the expected reward, less a moving baseline, by Adam."""
        s = self.settings
        first, second = np.zeros_like(self._allowed, float), np.zeros_like(self._allowed, float)
        baseline: float | None = None
        for step in range(1, s.steps + 1):
            choices = self.draw(s.batch, rng)
            rewards = reward(choices)
            baseline = float(rewards.mean()) if baseline is None else baseline
            gradient = self._gradient(choices, rewards - baseline)
            baseline = BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * float(rewards.mean())
            first = BETA_1 * first + (1 - BETA_1) * gradient
            second = BETA_2 * second + (1 - BETA_2) * gradient**2
            size = s.learning_rate * np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
            self.logits[self._allowed] += (size * first / (np.sqrt(second) + EPSILON))[self._allowed]

    def _gradient(self, choices: Choices, advantage: Floats) -> Floats:
        """Of mean advantage * log probability, and of the entropy: [F, C]."""
        p = self.probabilities
        drawn = np.arange(p.shape[1]) == choices[:, :, None]
        scores = (advantage[:, None, None] * (drawn - p)).mean(axis=0)
        logs = np.log(np.where(p > 0, p, 1.0))
        entropy = -(p * logs).sum(axis=1, keepdims=True)
        return scores - self.settings.entropy * p * (logs + entropy)
