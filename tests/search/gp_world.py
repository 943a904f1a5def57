"""Small fitted beliefs."""

import torch

from search.surrogate import Belief, fit, gp_model


def observations(seed, count=6, dimensions=2):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, dimensions, generator=generator, dtype=torch.float64)
    values = torch.sin(5 * points[:, 0]) + (points - 0.4).square().sum(-1)
    return points, values


def fitted(seed, count=6, dimensions=2):
    return fit(*observations(seed, count, dimensions))


def line_belief(lengthscale=0.2, noise=1e-3):
    """One dimension, four observations, set hyper-parameters."""
    points = torch.tensor([[0.1], [0.35], [0.6], [0.95]], dtype=torch.float64)
    model = gp_model(points, torch.tensor([-0.6, 0.4, -1.1, 0.2], dtype=torch.float64))
    model.covar_module.base_kernel.lengthscale = lengthscale
    model.covar_module.outputscale = 1.0
    model.likelihood.noise = noise
    model.mean_module.constant.data.fill_(-0.2)
    return Belief(model)
