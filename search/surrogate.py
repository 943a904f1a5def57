"""The Gaussian process that sequential methods believe in, and its joint posterior at batches of points.

Model and priors of Jiang et al. (arXiv 2006.15779): Matern-5/2 with a lengthscale a dimension ~ Gamma(3, 6),
outputscale ~ Gamma(2, 1), observations standardised; the noise has BoTorch's own prior. That prior of lengthscales is
made for the paper's few dimensions: in a hundred (a VM's graph, one-hot) every point is far from every other, and
nothing is learned. Above ``FEW_DIMENSIONS`` lengthscales have the prior that grows with the root of their number
(Hvarfner et al., arXiv 2402.02229). Shape legend: N observations, D dimensions, B batches, Q points of a batch.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, cast

import torch
from botorch.exceptions.warnings import OptimizationWarning
from botorch.models import SingleTaskGP
from botorch.optim.closures.core import ForwardBackwardClosure
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import GammaPrior, LogNormalPrior
from torch import Tensor

from search.errors import HistoryError

LENGTHSCALE_PRIOR = (3.0, 6.0)
OUTPUTSCALE_PRIOR = (2.0, 1.0)
FEW_DIMENSIONS = 15
MAX_STEPS = 100
LEAST_LENGTHSCALE = 1e-3
"""Of a model fitted anew: distances over shorter ones lose the digits that a Cholesky factor needs."""


class Belief:
    """Posterior of a fitted model with a scaled stationary kernel, in standardised units: larger is better.

    ``center`` and ``scale`` turn its values back: y = center + scale * value. ``weights`` [N, 1]: the mean at x is the
    prior's plus the sum of k(x, x_n) times weight n.
    """

    def __init__(self, model: SingleTaskGP, center: float = 0.0, scale: float = 1.0) -> None:
        self.model, self.center, self.scale = model.eval().requires_grad_(False), center, scale
        self.points: Tensor = model.train_inputs[0]
        self.values: Tensor = model.train_targets
        self.noise = float(model.likelihood.noise)
        self._mean = float(model.mean_module.constant)
        self._prior_variance = float(model.covar_module.outputscale)
        self._root = torch.linalg.cholesky(_noisy(gram(model, self.points, self.points), self.noise))
        self.weights = self.solve((self.values - self._mean)[:, None])

    @property
    def best(self) -> float:
        """The largest observed value, standardised."""
        return float(self.values.max())

    def solve(self, values: Tensor) -> Tensor:
        """The inverse of the observations' covariance, noise included, times ``values`` [N, K]: [N, K]."""
        return torch.cholesky_solve(values, self._root)

    def posterior(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, Q] and covariance [B, Q, Q] of the function, noise left out, at ``points`` [B, Q, D]."""
        mean, solved = self._solved(points)
        return mean, gram(self.model, points, points) - solved.transpose(-1, -2) @ solved

    def marginals(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [B, Q] of the function at ``points`` [B, Q, D]."""
        mean, solved = self._solved(points)
        return mean, (self._prior_variance - solved.square().sum(-2)).clamp_min(0.0)

    def covariance(self, points: Tensor, others: Tensor) -> Tensor:
        """Posterior covariance [B, Q, R] between ``points`` [B, Q, D] and ``others`` [R, D] or [B, R, D]."""
        others = others.expand(*points.shape[:-2], *others.shape[-2:])
        return gram(self.model, points, others) - self._solved(points)[1].transpose(-1, -2) @ self._solved(others)[1]

    def with_values(self, points: Tensor, values: Tensor) -> Belief:
        """The belief after more observations [M, D], [M] (standardised units), hyper-parameters kept."""
        model = SingleTaskGP(
            torch.cat([self.points, points]),
            torch.cat([self.values, values])[:, None],
            covar_module=self.model.covar_module,
            likelihood=self.model.likelihood,
            mean_module=self.model.mean_module,
            outcome_transform=None,
        )
        return Belief(model, self.center, self.scale)

    def _solved(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, Q] and the half-solved cross-covariance [B, N, Q]."""
        flat = points.reshape(-1, points.shape[-1])
        cross = gram(self.model, flat, self.points)
        mean = self._mean + (cross @ self.weights).reshape(points.shape[:-1])
        solved = torch.linalg.solve_triangular(self._root, cross.T, upper=False)
        return mean, solved.reshape(-1, *points.shape[:-1]).movedim(0, -2)


def fit(points: Tensor, values: Tensor) -> Belief:
    """Fit the model by maximum a posteriori.

    The optimiser may end at a lengthscale so short (1e-9) that rounded distances give a matrix without a Cholesky
    factor; the model is then fitted anew with lengthscales of at least ``LEAST_LENGTHSCALE``.

    Args:
        points: [N, D] in the unit cube, float64.
        values: [N], larger is better, in any unit.

    Raises:
        HistoryError: no observation, or a value that is not finite.
    """
    if not len(points) or not torch.isfinite(values).all():
        raise HistoryError(f"a model needs finite observations; got {len(points)}, values {values.tolist()[:5]}")
    center = float(values.mean())
    spread = float(values.std()) if len(values) > 1 else 0.0
    # Equal values say nothing of the scale: any will do, but 0.
    scale = spread if spread > 1e-12 * max(1.0, abs(center)) else 1.0
    standard = (values - center) / scale
    try:
        return Belief(_fitted(points, standard), center, scale)
    except torch.linalg.LinAlgError:
        return Belief(_fitted(points, standard, LEAST_LENGTHSCALE), center, scale)


def _fitted(points: Tensor, values: Tensor, least_lengthscale: float | None = None) -> SingleTaskGP:
    model = gp_model(points, values)
    maximise_posterior(model, least_lengthscale)
    return model


def maximise_posterior(model: SingleTaskGP, least_lengthscale: float | None = None) -> None:
    """Set the trainable hyper-parameters to their maximum a posteriori, by L-BFGS-B from where they are.

    Args:
        least_lengthscale: a lower bound on every lengthscale; none when absent.
    """
    bounds: dict[str, tuple[float | None, float | None]] | None = None
    if least_lengthscale is not None:
        kernel = cast(Any, model.covar_module).base_kernel
        least = kernel.raw_lengthscale_constraint.inverse_transform(torch.tensor(least_lengthscale))
        bounds = {"covar_module.base_kernel.raw_lengthscale": (float(least), None)}
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    parameters: dict[str, Tensor] = {name: value for name, value in model.named_parameters() if value.requires_grad}
    closure = ForwardBackwardClosure(lambda: -log_posterior(model), parameters)
    with warnings.catch_warnings():
        # Running out of steps leaves the best parameters so far: good enough for a belief.
        warnings.simplefilter("ignore", OptimizationWarning)
        fit_gpytorch_mll_scipy(likelihood, parameters, bounds, closure=closure, options={"maxiter": MAX_STEPS})


def gp_model(points: Tensor, values: Tensor) -> SingleTaskGP:
    """The unfitted model of standardised values [N] at points [N, D]."""
    dims = points.shape[-1]
    if dims <= FEW_DIMENSIONS:
        matern = MaternKernel(2.5, ard_num_dims=dims, lengthscale_prior=GammaPrior(*LENGTHSCALE_PRIOR))
    else:
        prior = LogNormalPrior(math.sqrt(2) + math.log(dims) / 2, math.sqrt(3))
        matern = MaternKernel(2.5, ard_num_dims=dims, lengthscale_prior=prior)
        matern.lengthscale = prior.mode
    kernel = ScaleKernel(matern, outputscale_prior=GammaPrior(*OUTPUTSCALE_PRIOR))
    return SingleTaskGP(points, values[:, None], covar_module=kernel.to(points.dtype), outcome_transform=None)


def log_posterior(model: SingleTaskGP) -> Tensor:
    """Log marginal likelihood plus log priors over N, as gpytorch's ExactMarginalLogLikelihood.

    Written out over a dense Cholesky factor, because gpytorch's lazy operators take most of the time of a small fit.
    """
    points, values = model.train_inputs[0], model.train_targets
    root = torch.linalg.cholesky(_noisy(gram(model, points, points), model.likelihood.noise))
    residual = (values - model.mean_module.constant)[:, None]
    fit_term = torch.linalg.solve_triangular(root, residual, upper=False).square().sum() / 2
    total = -fit_term - root.diagonal().log().sum() - len(values) / 2 * math.log(2 * math.pi)
    # A Module's attributes have no types of their own.
    for _, module, prior, closure, _ in cast(Any, model).named_priors():
        total = total + prior.log_prob(closure(module)).sum()
    return total / len(values)


def gram(model: SingleTaskGP, points: Tensor, others: Tensor) -> Tensor:
    """Prior covariance [..., Q, R] between points [..., Q, D] and [..., R, D], without gpytorch's lazy operators."""
    return cast(Tensor, model.covar_module.forward(points, others))


def _noisy(gram: Tensor, noise: Tensor | float) -> Tensor:
    return gram + noise * torch.eye(len(gram), dtype=gram.dtype)
