"""What drives a label in the generated world: fixed effects that every model sees, hidden ones only the FM sees.

logit = base + f(hour, segment, category, device) + effects * (placement * Q(placement) + slow + fast), with
slow = user * U(user, day) + interest * V(user, category, day) + item * I(item, day) and fast = context * X(row).
U, V, I and X are standard normal and independent, so E[p | f] and E[p | f, older state] are one-dimensional Gaussian
integrals. Q, of worlds with placements, never changes: a VM sees the placement and could learn its Q from labels, but
there are few rows of each; the FM is shown Q. It is what distillation can carry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SEGMENTS = 5
CATEGORIES = 8
DEVICES = 3
QUADRATURE_POINTS = 24


@dataclass(frozen=True)
class VerticalEffects:
    """Weights of one vertical; the hidden states they multiply have unit variance."""

    base: float
    user: float
    interest: float
    item: float
    context: float
    placement: float
    segment: float
    category: float
    device: float
    hour: float

    @property
    def slow_variance(self) -> float:
        """Variance of the slow part of the logit at effects = 1."""
        return self.user**2 + self.interest**2 + self.item**2

    @property
    def fast_variance(self) -> float:
        """Variance of the fast part of the logit at effects = 1."""
        return self.context**2

    def fixed(self, hour: Ints, segment: Ints, category: Ints, device: Ints) -> Floats:
        """base + f(request features), [N]."""
        return (
            self.base
            + self.hour * np.sin(2 * np.pi * (hour - 15) / 24)
            + self.segment * _spread(segment, SEGMENTS)
            + self.category * _spread(category * 3 % CATEGORIES, CATEGORIES)
            + self.device * _spread(device, DEVICES)
        )


VERTICALS: dict[str, VerticalEffects] = {
    "feed": VerticalEffects(
        base=-2.1,
        user=0.5,
        interest=0.35,
        item=0.65,
        context=0.4,
        placement=0.8,
        segment=0.5,
        category=0.5,
        device=0.3,
        hour=0.3,
    ),
    "shop": VerticalEffects(
        base=-2.3,
        user=0.5,
        interest=0.4,
        item=0.65,
        context=0.4,
        placement=0.8,
        segment=0.4,
        category=0.6,
        device=0.2,
        hour=0.2,
    ),
}


def _spread(level: Ints, levels: int) -> Floats:
    """Levels placed evenly on [-1, 1]."""
    return 2.0 * level / (levels - 1) - 1.0


def sigmoid(logit: Floats) -> Floats:
    """1 / (1 + exp(-logit))."""
    return 1.0 / (1.0 + np.exp(-np.clip(logit, -500.0, 500.0)))


def expected_probability(mean: Floats, variance: Floats | float) -> Floats:
    """E[sigmoid(x)] for x ~ N(mean, variance), [N], by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_POINTS)
    spread = np.broadcast_to(np.sqrt(variance), mean.shape)
    return sigmoid(mean[:, None] + spread[:, None] * nodes) @ (weights / weights.sum())
