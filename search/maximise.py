"""Maximising an acquisition over several points at once: where to begin, and the joint ascent.

Shape legend: R restarts, T points of one restart, C candidates, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from search.improvement import log_ei
from search.surrogate import Belief

# Some candidates lie about the best observation: deviation, as a share of the cube's side.
NEAR = 0.05
# Branches less likely than this move as if they were as likely.
LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class Effort:
    """``restarts``: begun with; ``candidates``: random points they choose from; ``steps`` of the ascent; ``draws`` of a
    batch's improvement.
    """

    restarts: int = 4
    candidates: int = 256
    steps: int = 60
    draws: int = 64


DEFAULT_EFFORT = Effort()


class Candidates:
    """Random points of the unit cube [C, D], and weighted choices among them; the same for equal seeds."""

    def __init__(self, belief: Belief, count: int, seed: int) -> None:
        dimensions = belief.points.shape[-1]
        self.generator = torch.Generator().manual_seed(seed)
        spread = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed).draw(count, dtype=torch.float64)
        steps = torch.randn(count // 8, dimensions, generator=self.generator, dtype=torch.float64)
        best = belief.points[belief.values.argmax()]
        self.points = torch.cat([spread, (best + NEAR * steps).clamp(0, 1)])

    def choose(self, scores: Tensor, count: int) -> Tensor:
        """Places [B, count] of different candidates for log weights [B, C]: the largest, then at random by weight."""
        uniform = torch.rand(scores.shape, generator=self.generator, dtype=scores.dtype)
        # The Gumbel trick: the largest of weight + noise are draws without replacement.
        keys = scores - (-uniform.clamp(1e-300, 1 - 1e-16).log()).log()
        keys.scatter_(-1, scores.argmax(-1, keepdim=True), torch.inf)
        return keys.topk(count, dim=-1).indices


def log_ei_at(belief: Belief, points: Tensor) -> Tensor:
    """log expected improvement [..., T] at ``points`` [..., T, D]."""
    return log_ei(*belief.marginals(points), belief.best)


def maximise(
    value: Callable[[Tensor], Tensor], starts: Tensor, steps: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Maximise the sum of ``value`` [R] over ``starts`` [R, T, D] by L-BFGS-B in the unit cube -> points, values [R].

    The restarts share one problem, as in BoTorch: they are independent, and one evaluation serves all of them.

    Args:
        weights: [T], how much of the value hangs on each point; equal when absent. The curvature goes with them, so the
            ascent runs in units of one over their square root: else unlikely branches would hardly move.
    """
    begin = starts.detach().clamp(0, 1)
    scale = torch.ones(begin.shape[1]) if weights is None else weights.clamp_min(LEAST_WEIGHT).rsqrt()
    unit = scale.to(begin)[:, None].expand_as(begin)

    def negative(flat: np.ndarray) -> tuple[float, np.ndarray]:
        points = (torch.from_numpy(flat).reshape(unit.shape) * unit).clamp(0, 1).requires_grad_(True)
        loss = -value(points).sum()
        (gradient,) = torch.autograd.grad(loss, points)
        return loss.item(), (gradient * unit).numpy().ravel()

    found = minimize(
        negative,
        (begin / unit).numpy().ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0 / side) for side in unit.ravel().tolist()],
        options={"maxiter": steps},
    )
    points = (torch.from_numpy(found.x).reshape(unit.shape) * unit).clamp(0, 1)
    with torch.no_grad():
        before, after = value(begin), value(points)
    # The sum rises; one restart of it may still fall.
    return torch.where((after >= before)[:, None, None], points, begin), torch.maximum(before, after)
