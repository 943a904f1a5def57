"""How well the target of a graph follows from its latent vector, and from the raw encoding by plain methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gpytorch
import numpy as np
import numpy.typing as npt
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.mlls import ExactMarginalLogLikelihood, VariationalELBO
from gpytorch.variational import CholeskyVariationalDistribution, VariationalStrategy
from torch import Tensor

Floats = npt.NDArray[np.float64]

SPARSE_BATCH = 1024
SPARSE_RATE = 0.02


@dataclass(frozen=True)
class Fit:
    """Error of predictions, targets standardised on the training rows, and their Pearson correlation."""

    rmse: float
    r: float


def judge(predicted: Floats, truth: Floats) -> Fit:
    """Both [G]."""
    return Fit(float(np.sqrt(np.mean((predicted - truth) ** 2))), float(np.corrcoef(predicted, truth)[0, 1]))


class SparseGp(gpytorch.models.ApproximateGP):
    """Variational Gaussian process with an RBF kernel of one lengthscale a dimension; inducing points are learned."""

    def __init__(self, inducing: Tensor) -> None:
        distribution = CholeskyVariationalDistribution(len(inducing))
        super().__init__(VariationalStrategy(self, inducing, distribution))
        dimensions = inducing.shape[1]
        self.mean_module = gpytorch.means.ConstantMean()
        kernel = gpytorch.kernels.RBFKernel(ard_num_dims=dimensions)
        # Standardised inputs lie about sqrt(2 D) apart: a start at which they see each other.
        kernel.lengthscale = float(np.sqrt(dimensions))
        self.covar_module = gpytorch.kernels.ScaleKernel(kernel)

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        """Prior at ``x`` [G, D]."""
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def sparse_gp(X: Floats, y: Floats, X_test: Floats, inducing: int, epochs: int) -> Floats:
    """Predictions [G] of a sparse Gaussian process with ``inducing`` points, trained on all rows by Adam."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.tensor(X).float(), torch.tensor(y).float()
    model = SparseGp(inputs[torch.randperm(len(inputs), generator=generator)[:inducing]].clone())
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    elbo = VariationalELBO(likelihood, model, num_data=len(inputs))
    optimizer = torch.optim.Adam([*model.parameters(), *likelihood.parameters()], lr=SPARSE_RATE)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(SPARSE_BATCH):
            optimizer.zero_grad()
            loss = -elbo(model(inputs[rows]), targets[rows])
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return model(torch.tensor(X_test).float()).mean.double().numpy()


def exact_gp(X: Floats, y: Floats, X_test: Floats, rows: int) -> Floats:
    """Predictions [G] of BoTorch's exact Gaussian process, fitted to the first ``rows`` rows."""
    model = SingleTaskGP(torch.tensor(X[:rows]), torch.tensor(y[:rows, None]))
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model), optimizer_kwargs={"options": {"maxiter": 30}})
    with torch.no_grad():
        return model.posterior(torch.tensor(X_test)).mean.squeeze(-1).numpy()


def ridge(X: Floats, y: Floats, X_test: Floats) -> Floats:
    """Predictions [G]; the penalty is chosen by generalised cross-validation."""
    from sklearn.linear_model import RidgeCV

    return np.asarray(RidgeCV(alphas=np.logspace(-3, 3, 13)).fit(X, y).predict(X_test))


def boosting(X: Floats, y: Floats, X_test: Floats) -> Floats:
    """Predictions [G] of gradient-boosted trees."""
    return np.asarray(booster(X, y).predict(X_test))


def booster(X: Floats, y: Floats) -> Any:
    """Fitted gradient-boosted trees."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=600, learning_rate=0.08, random_state=0).fit(X, y)
