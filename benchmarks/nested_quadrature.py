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
        now = float(_ei(mean[place], covariance[place, place], best))
        if steps == 1:
            return now
        deviation = np.sqrt(covariance[place, place] + self.noise)
        gain = covariance[:, place] / deviation
        left = covariance - np.outer(gain, gain)
        later = [self._best(mean + gain * z, left, max(best, mean[place] + deviation * z), steps - 1) for z in self.z]
        return now + float(self.weights @ later)

    def _best(self, mean: np.ndarray, covariance: np.ndarray, best: float, steps: int) -> float:
        if steps == 1:
            return float(_ei(mean, np.diag(covariance), best).max())
        return max(self._value(mean, covariance, best, place, steps) for place in range(len(self.grid)))


def _ei(mean: np.ndarray, variance: np.ndarray, best: float) -> np.ndarray:
    deviation = np.sqrt(np.maximum(variance, 1e-12))
    ratio = (mean - best) / deviation
    return np.asarray(deviation * (norm.pdf(ratio) + ratio * norm.cdf(ratio)))
