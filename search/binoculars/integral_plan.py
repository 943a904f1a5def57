"""Batches that leave the integral itself the least uncertain, for quadrature by BINOCULARS.

With f linearised about the mean m of its root g, as WSABI-L does (Gunter et al., NeurIPS 2014), the integral Z of m g
is normal. Observing a batch X leaves Var Z - a' (C + noise)^-1 a, where C is the covariance of g at X and a_i that of
g(x_i) with Z (Rasmussen and Ghahramani, "Bayesian Monte Carlo", NeurIPS 2002). The measure is that of Sobol nodes: it
chooses points, and no estimate hangs on it.

Shape legend: N observations, B batches, Q points of a batch, C candidates, M nodes, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from search.improvement import LEAST_VARIANCE, safe_root
from search.surrogate import Belief, gram

NODES = 256


class IntegralPlan:
    """How well batches determine the integral over the unit cube.

    Args:
        root: the belief on g.
        seed: of the nodes.
    """

    def __init__(self, root: Belief, seed: int) -> None:
        self.root = root
        sobol = torch.quasirandom.SobolEngine(root.points.shape[-1], scramble=True, seed=seed)
        self.nodes = sobol.draw(NODES, dtype=torch.float64)
        mean, covariance = root.posterior(self.nodes[None])
        self.weights = mean[0] / NODES
        self.variance = self.weights @ covariance[0] @ self.weights
        # Half of the covariance with the integral hangs on the observations alone: solved once, not at every step.
        solved = root.solve(gram(root.model, root.points, self.nodes) @ self.weights[:, None])[:, 0]
        self._places, self._factors = torch.cat([self.nodes, root.points]), torch.cat([self.weights, -solved])
        # Variance below this share of what there is now is rounding.
        self.least = 1e-9 * self.variance.clamp_min(LEAST_VARIANCE)

    def log_gains(self, points: Tensor) -> Tensor:
        """log of the variance of the integral that each of ``points`` [B, Q, D] takes away alone, [B, Q]."""
        variance = self.root.marginals(points)[1] + self.root.noise
        return (self._shared(points).square() / variance).clamp_min(LEAST_VARIANCE**2).log()

    def log_precision(self, points: Tensor) -> Tensor:
        """-log Var Z [B] after the batches ``points`` [B, Q, D]."""
        explained = torch.linalg.solve_triangular(
            safe_root(self._observed(points)), self._shared(points)[..., None], upper=False
        )
        return -(self.variance - explained.square().sum((-1, -2))).clamp_min(self.least).log()

    def spread_out(self, candidates: Tensor, size: int) -> Tensor:
        """Places [size] among ``candidates`` [C, D] that take away most variance, one after the other."""
        shared, left = self._shared(candidates[None])[0], self._observed(candidates[None])[0]
        free = torch.ones(len(candidates), dtype=torch.bool)
        places = []
        for _ in range(size):
            # What a chosen place has left is its noise, and no more is to be had there.
            gains = shared.square() / left.diagonal().clamp_min(self.root.noise)
            place = int(gains.where(free, -torch.inf).argmax())
            places.append(place)
            free[place] = False
            column = left[:, place] / left[place, place].clamp_min(self.root.noise).sqrt()
            shared = shared - column * (shared[place] / left[place, place].clamp_min(self.root.noise).sqrt())
            left = left - column[:, None] * column[None, :]
        return torch.tensor(places)

    def _observed(self, points: Tensor) -> Tensor:
        """Covariance [B, Q, Q] of observations at ``points`` [B, Q, D]."""
        noise = self.root.noise * torch.eye(points.shape[-2], dtype=points.dtype)
        return self.root.posterior(points)[1] + noise

    def _shared(self, points: Tensor) -> Tensor:
        """Covariance [B, Q] of g at ``points`` [B, Q, D] with the integral."""
        flat = points.reshape(-1, points.shape[-1])
        return (gram(self.root.model, flat, self._places) @ self._factors).reshape(points.shape[:-1])
