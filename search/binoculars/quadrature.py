"""BINOCULARS for Bayesian quadrature (Jiang et al., ICML 2020) of a non-negative function over the unit cube.

The model is WSABI-L (Gunter et al., NeurIPS 2014): f = alpha + g^2 / 2 with a Gaussian process on g, linearised about
its mean m, so that f has covariance m(x) C(x, x') m(x'). The plan is the batch of all evaluations that are left which
leaves the integral itself the least uncertain (``integral_plan``); its member that tells most alone is evaluated.

``log_det`` plans for the values instead: the batch that is jointly the least certain, the largest log-determinant of
that covariance, the mode of a determinantal point process. With one evaluation left that is uncertainty sampling. Joint
uncertainty of the values is largest at the border, where a value tells little of the rest: it is behind
(docs/results/search_binoculars.md).

Shape legend: N observations, B batches, Q points of a batch, C candidates, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from botorch.models import SingleTaskGP
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ConstantMean
from gpytorch.priors import GammaPrior
from torch import Tensor

from search.binoculars.integral_plan import IntegralPlan
from search.errors import HistoryError
from search.improvement import LEAST_VARIANCE, safe_root
from search.maximise import DEFAULT_EFFORT, Candidates, Effort, maximise
from search.surrogate import LENGTHSCALE_PRIOR, OUTPUTSCALE_PRIOR, Belief, maximise_posterior

Method = Literal["integral", "log_det", "uncertainty"]
"""The batch of all that is left that tells most of the integral, the least certain one, or the least certain point."""

# alpha as a share of the smallest observation: the warped function then stays above 0 there.
FLOOR_SHARE = 0.8
NOISE = 1e-6


class WarpedBelief:
    """Posterior of f = ``floor`` + ``scale``^2 g^2 / 2.

    Args:
        points: [N, D] in the unit cube, float64. values: [N], none negative.

    Raises:
        HistoryError: no observation, or one that is negative or not finite.
    """

    def __init__(self, points: Tensor, values: Tensor) -> None:
        if not len(values) or not torch.isfinite(values).all() or values.min() < 0:
            raise HistoryError("quadrature needs observations that are finite and not negative")
        self.floor = FLOOR_SHARE * float(values.min())
        roots = (2 * (values - self.floor)).sqrt()
        self.scale = float(roots.square().mean().sqrt()) or 1.0
        model = _root_model(points, roots / self.scale)
        maximise_posterior(model)
        self.root = Belief(model)

    def mean(self, points: Tensor) -> Tensor:
        """E f [B, Q] at ``points`` [B, Q, D]."""
        return self.floor + self.scale**2 * self.root.marginals(points)[0].square() / 2

    def log_variance(self, points: Tensor) -> Tensor:
        """log Var f [B, Q], up to a constant."""
        mean, variance = self.root.marginals(points)
        return _log_square(mean) + variance.clamp_min(LEAST_VARIANCE).log()

    def log_determinant(self, points: Tensor) -> Tensor:
        """log det Cov f [B] of the batches ``points`` [B, Q, D], up to a constant."""
        mean, covariance = self.root.posterior(points)
        return _log_square(mean).sum(-1) + 2 * safe_root(covariance).diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def integral(self) -> float:
        """E of the integral of f over the unit cube, in closed form: m is a sum of Gaussians about the observations."""
        kernel = self.root.model.covar_module
        lengths = kernel.base_kernel.lengthscale[0]
        weights = float(kernel.outputscale) * self.root.weights[:, 0]
        points = self.root.points
        apart = points[:, None] - points[None]
        middle = (points[:, None] + points[None]) / 2
        sides = torch.erf((1 - middle) / lengths) + torch.erf(middle / lengths)
        overlaps = (-(apart / (2 * lengths)).square()).exp() * lengths * math.sqrt(math.pi) / 2 * sides
        return self.floor + self.scale**2 * float(weights @ overlaps.prod(-1) @ weights) / 2


def next_point(
    belief: WarpedBelief, left: int, seed: int, method: Method = "integral", effort: Effort = DEFAULT_EFFORT
) -> Tensor:
    """The point [D] to evaluate, with ``left`` evaluations left, it included."""
    size = 1 if method == "uncertainty" else left
    candidates = Candidates(belief.root, max(effort.candidates, 4 * size), seed)
    plan = _plan(belief, method, seed)
    scores = plan.score(candidates.points[None])
    if size == 1:
        starts = candidates.points[candidates.choose(scores, effort.restarts)[0]][:, None]
    else:
        chosen = candidates.choose(scores.expand(effort.restarts, -1).contiguous(), size)
        chosen[0] = plan.spread_out(candidates.points, size)
        starts = candidates.points[chosen]
    points, values = maximise(plan.value, starts, effort.steps)
    batch = points[int(values.argmax())]
    return batch[int(plan.score(batch[None])[0].argmax())]


def spread_out(belief: WarpedBelief, candidates: Tensor, size: int) -> Tensor:
    """Places [size] among ``candidates`` [C, D] that raise the log-determinant most, one after the other."""
    mean, covariance = belief.root.posterior(candidates[None])
    left = covariance[0] * mean[0][:, None] * mean[0][None, :]
    places = []
    for _ in range(size):
        place = int(left.diagonal().argmax())
        places.append(place)
        column = left[:, place] / left[place, place].clamp_min(1e-300).sqrt()
        left = left - column[:, None] * column[None, :]
        left[place, :] = left[:, place] = 0.0
        left[place, place] = -torch.inf
    return torch.tensor(places)


def integrate(
    function: Callable[[Tensor], float],
    dimensions: int,
    budget: int,
    seed: int,
    method: Method = "integral",
    effort: Effort = DEFAULT_EFFORT,
) -> list[float]:
    """Estimates of the integral after each of ``budget`` evaluations, from 2 D Sobol points on.

    Raises:
        HistoryError: ``budget`` is not above the 2 D initial points, or the function gives what no integrand may.
    """
    initial = 2 * dimensions
    if budget <= initial:
        raise HistoryError(f"a budget of {budget} evaluations; {initial} go to the initial points: give more")
    points = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed).draw(initial, dtype=torch.float64)
    values = torch.tensor([function(point) for point in points], dtype=torch.float64)
    estimates = []
    belief = WarpedBelief(points, values)
    for left in range(budget - initial, 0, -1):
        point = next_point(belief, left, 1_000 * seed + left, method, effort)
        points = torch.cat([points, point[None]])
        values = torch.cat([values, torch.tensor([function(point)], dtype=torch.float64)])
        belief = WarpedBelief(points, values)
        estimates.append(belief.integral())
    return estimates


class _Plan(NamedTuple):
    """``score`` [B, Q] of the points of batches one by one, ``value`` [B] of the batches, and a greedy batch."""

    score: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]
    spread_out: Callable[[Tensor, int], Tensor]


def _plan(belief: WarpedBelief, method: Method, seed: int) -> _Plan:
    if method == "integral":
        plan = IntegralPlan(belief.root, seed)
        return _Plan(plan.log_gains, plan.log_precision, plan.spread_out)
    return _Plan(belief.log_variance, belief.log_determinant, partial(spread_out, belief))


def _root_model(points: Tensor, roots: Tensor) -> SingleTaskGP:
    mean = ConstantMean()
    mean.raw_constant.requires_grad_(False)
    likelihood = GaussianLikelihood(noise_constraint=GreaterThan(NOISE / 2))
    likelihood.noise = NOISE
    likelihood.raw_noise.requires_grad_(False)
    kernel = ScaleKernel(
        RBFKernel(ard_num_dims=points.shape[-1], lengthscale_prior=GammaPrior(*LENGTHSCALE_PRIOR)),
        outputscale_prior=GammaPrior(*OUTPUTSCALE_PRIOR),
    )
    return SingleTaskGP(
        points,
        roots[:, None],
        likelihood=likelihood.to(points.dtype),
        covar_module=kernel.to(points.dtype),
        mean_module=mean.to(points.dtype),
        outcome_transform=None,
    )


def _log_square(mean: Tensor) -> Tensor:
    return mean.square().clamp_min(LEAST_VARIANCE).log()
