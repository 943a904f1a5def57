"""The exact value of looking ahead in one dimension, by brute force: nested grids of outcomes and of points.

It shares nothing with the one-shot trees but the kernel: posteriors by solving the enlarged system, expectations by the
trapezoid rule, maxima over a grid.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import norm

from search.surrogate import Belief

REACH = 6.0
"""Outcomes are integrated over so many standard deviations to either side."""


class NestedQuadrature:
    """v_k of a one-dimensional belief.

    Args:
        points: of the grid over [0, 1] that maxima are taken over.
        outcomes: of each expectation.
    """

    def __init__(self, belief: Belief, points: int = 401, outcomes: int = 201) -> None:
        self.grid = np.linspace(0, 1, points)
        self.z = np.linspace(-REACH, REACH, outcomes)
        density = norm.pdf(self.z)
        self.weights = density / density.sum()
        self.noise, self.best = belief.noise, belief.best
        kernel, known = belief.model.covar_module, belief.points
        everywhere = torch.cat([torch.from_numpy(self.grid)[:, None], known])
        gram = kernel(everywhere).to_dense().numpy()
        constant = float(belief.model.mean_module.constant)
        system = gram[points:, points:] + self.noise * np.eye(len(known))
        cross = np.linalg.solve(system, gram[points:, :points])
        self.mean = constant + cross.T @ (belief.values.numpy() - constant)
        self.covariance = gram[:points, :points] - gram[:points, points:] @ cross

    def value(self, place: int, steps: int) -> float:
        """v_steps at the ``place``-th grid point."""
        return self._value(self.mean, self.covariance, self.best, place, steps)

    def _value(self, mean: np.ndarray, covariance: np.ndarray, best: float, place: int, steps: int) -> float:
        if steps <= 2:
            return float(self._values(mean, covariance, best, steps)[place])
        now = float(_ei(mean[place], covariance[place, place], best))
        deviation = np.sqrt(covariance[place, place] + self.noise)
        gain = covariance[:, place] / deviation
        left = covariance - np.outer(gain, gain)
        later = [
            self._values(mean + gain * z, left, max(best, mean[place] + deviation * z), steps - 1).max()
            for z in self.z
        ]  # fmt: skip
        return now + float(self.weights @ later)

    def _values(self, mean: np.ndarray, covariance: np.ndarray, best: float, steps: int) -> np.ndarray:
        """v_steps at every grid point: [P]."""
        variance = np.diag(covariance)
        if steps == 1:
            return _ei(mean, variance, best)
        if steps > 2:
            return np.array([self._value(mean, covariance, best, place, steps) for place in range(len(mean))])
        # Row p: everything after an observation at point p.
        deviation = np.sqrt(variance + self.noise)
        gain = covariance.T / deviation[:, None]
        left, found = variance - gain**2, _ei(mean, variance, best)
        for z, weight in zip(self.z, self.weights, strict=True):
            reached = np.maximum(best, mean + deviation * z)
            found = found + weight * _ei(mean + gain * z, left, reached[:, None]).max(axis=1)
        return found


def _ei(mean: np.ndarray, variance: np.ndarray, best: float | np.ndarray) -> np.ndarray:
    deviation = np.sqrt(np.maximum(variance, 1e-12))
    ratio = (mean - best) / deviation
    return np.asarray(deviation * (norm.pdf(ratio) + ratio * norm.cdf(ratio)))
