"""What a read passes where it enters a VM: normalisation and dropout, or dropout by the age of the key.

Shape legend: R rows with a history, K pooled vectors, D reader dim, C keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import AgeDropoutBoundary, Boundary, NormBoundary
from models.vm_data import TokenBatch


class NormedBoundary(nn.Module):
    """LayerNorm of each pooled vector, then dropout (KGD, arXiv 2608.02738); counts pass as they are."""

    def __init__(self, settings: NormBoundary, dim: int) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(settings.dropout)

    def forward(self, pooled: Tensor, count: Tensor, tokens: TokenBatch) -> Tensor:
        """Pooled [R, K * D], count [R, C] -> [R, K * D + C]."""
        return self.served(pooled, count)

    def served(self, pooled: Tensor, count: Tensor) -> Tensor:
        """``forward`` without tokens."""
        normed = self.norm(pooled.unflatten(1, (-1, self.norm.normalized_shape[0]))).flatten(1)
        return torch.cat([self.dropout(normed), count], dim=1)


class AgedBoundary(nn.Module):
    """Whole reads become 0, as of an empty history, with chance rate * 2^(-age / half_life), while training alone.

    Age is that of the oldest token read. Nothing is scaled up: an empty history is a state that serving knows (PinFM,
    arXiv 2507.12704, age-dependent dropout).
    """

    def __init__(self, settings: AgeDropoutBoundary) -> None:
        super().__init__()
        self.rate, self.half_life_hours = settings.rate, settings.half_life_hours

    def chance(self, tokens: TokenBatch) -> Tensor:
        """Of being dropped: [R]."""
        oldest = (tokens.age_hours * tokens.mask).amax(dim=1)
        return self.rate * torch.exp2(-oldest / self.half_life_hours)

    def forward(self, pooled: Tensor, count: Tensor, tokens: TokenBatch) -> Tensor:
        """Pooled [R, K * D], count [R, C] -> [R, K * D + C]."""
        read = self.served(pooled, count)
        if not self.training:
            return read
        kept = torch.rand(len(read), device=read.device) >= self.chance(tokens)
        return read * kept[:, None]

    def served(self, pooled: Tensor, count: Tensor) -> Tensor:
        """``forward`` while nothing is dropped."""
        return torch.cat([pooled, count], dim=1)


def make_boundary(settings: Boundary | None, dim: int) -> NormedBoundary | AgedBoundary | None:
    """The boundary of a reader of ``dim``; None passes reads as they are."""
    if settings is None:
        return None
    return NormedBoundary(settings, dim) if isinstance(settings, NormBoundary) else AgedBoundary(settings)
