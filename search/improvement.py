"""Expected improvement of one point in closed form, and of a batch by quasi-Monte Carlo; as logarithms.

The logarithm keeps its gradient where the improvement underflows (Ament et al., NeurIPS 2023).
"""

from __future__ import annotations

import torch
from botorch.acquisition.analytic import _log_ei_helper
from botorch.utils.sampling import draw_sobol_normal_samples
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

# Of the variance in standardised units; a known point has no improvement to speak of.
LEAST_VARIANCE = 1e-12
LEAST = 1e-30
JITTER = 1e-8
# Each adds ten times the diagonal of the one before.
CHOLESKY_TRIES = 5


def log_ei(mean: Tensor, variance: Tensor, best: Tensor | float) -> Tensor:
    """log E[max(0, f - best)] for normal f; all arguments broadcast."""
    deviation = variance.clamp_min(LEAST_VARIANCE).sqrt()
    return _log_ei_helper((mean - best) / deviation) + deviation.log()


def log_qei(mean: Tensor, covariance: Tensor, best: Tensor | float, normals: Tensor) -> Tensor:
    """log E[max(0, max_q f_q - best)] by fixed draws.

    Args:
        mean: [..., Q]. covariance: [..., Q, Q]. best: [...] or a number.
        normals: standard normal draws [S, Q].
    """
    root = safe_root(covariance)
    draws = mean.unsqueeze(-2) + normals @ root.transpose(-1, -2)
    level = torch.as_tensor(best, dtype=mean.dtype).unsqueeze(-1)
    return (draws.amax(-1) - level).clamp_min(0).mean(-1).clamp_min(LEAST).log()


def safe_root(covariance: Tensor) -> Tensor:
    """Cholesky factor [..., Q, Q] of a covariance that may be singular: points of a batch may coincide."""
    jitter = JITTER * torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    return psd_safe_cholesky(covariance + jitter, max_tries=CHOLESKY_TRIES)


def normal_draws(samples: int, size: int, seed: int) -> Tensor:
    """Scrambled Sobol draws [samples, size] of independent standard normals, float64."""
    return draw_sobol_normal_samples(d=size, n=samples, seed=seed, dtype=torch.float64)
