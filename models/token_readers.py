"""Kinds of readers: how much each token of a history counts; the pooling is shared (models/readers.py).

A further kind is a subclass of ``TokenReader``, built in or a team's own (docs/extending.md).

Shape legend: R examples with a history, L tokens, D reader dim, K pooled vectors, Q width of the kind's query.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import ReaderConfig
from models.own_code import own_class
from models.vm_data import TokenBatch

# Ages reach weeks: keep them near unit scale.
AGE_SCALE = 0.2
# A decayed sum of a full history of 50 tokens stays near the scale of their mean.
DECAYED_SCALE = 1 / 8
MASKED = -1e4


class EncodedTokens(NamedTuple):
    """Projected tokens less their mean [R, L, D], and ``scale`` [R, L]: scale * centred is their LayerNorm.

    Readers pool with weights * scale: the normalised tokens, the widest tensor of a VM, are never made. LayerNorm has
    no affine part of its own; the layers that read the pooled vectors have one.
    """

    centred: Tensor
    scale: Tensor


def log_age(age_hours: Tensor) -> Tensor:
    """log(1 + age in minutes), scaled. Any shape."""
    return (age_hours * 60).clamp(min=0).log1p() * AGE_SCALE


class TokenReader(nn.Module):
    """Base of all kinds: tokens to weights.

    Args:
        config: of the reader that it belongs to.

    Attributes:
        pooled: K, vectors that it makes.
        query_width: Q, of the query that ``forward`` takes: a linear map of the current example's features, which is
            learned beside the kind's own parameters; 0 asks for none.
    """

    pooled = 1
    query_width = 0

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        del config

    def forward(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        """Weights [R, K, L] of the tokens, query [R, Q]; masked places are 0."""
        raise NotImplementedError


class MeanReader(TokenReader):
    """The mean of the tokens."""

    def forward(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        """Weights [R, 1, L] of the tokens; masked places are 0."""
        mask = tokens.mask.to(encoded.scale.dtype)
        return (mask / mask.sum(dim=1, keepdim=True))[:, None]


class NewestReader(TokenReader):
    """The newest token alone: the key's last known state, undiluted."""

    def forward(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        """Weights [R, 1, L] of the tokens, which stand newest first."""
        weights = torch.zeros_like(encoded.scale)
        weights[:, 0] = tokens.mask[:, 0].to(weights.dtype)
        return weights[:, None]


class DecayedReader(TokenReader):
    """Sums that halve with age, one a half-life; half-lives are learned from the given ones on, or stay."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        half_lives = torch.tensor(config.half_lives_hours)
        self.log_half_life = nn.Parameter(half_lives.log(), requires_grad=config.learn_half_lives)
        self.pooled = len(half_lives)

    def forward(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        """Weights [R, K, L] of the tokens; masked places are 0."""
        rate = (-self.log_half_life).exp()
        weights = torch.exp2(-tokens.age_hours[:, None] * rate[None, :, None])
        return weights * tokens.mask[:, None] * DECAYED_SCALE


class AttentionReader(TokenReader):
    """Target attention: a query made of the current example's features scores each token by dot product.

    The query is projected into the tokens' space per head, so keys need no projection of their own; a learned slope
    on log age a head lets it prefer recent tokens.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        self.dim, self.pooled, self.query_width = config.dim, config.heads, config.heads * config.dim
        self.age_slope = nn.Parameter(torch.zeros(config.heads))

    def forward(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        """Weights [R, heads, L] of the tokens, query [R, heads * D]; masked places are 0."""
        query = query.view(len(query), self.pooled, self.dim) / math.sqrt(self.dim)
        scores = torch.bmm(query, encoded.centred.transpose(1, 2)) * encoded.scale[:, None]
        scores = scores + self.age_slope[None, :, None] * log_age(tokens.age_hours)[:, None]
        scores = scores.masked_fill(~tokens.mask[:, None], MASKED)
        return scores.softmax(dim=-1) * tokens.mask[:, None]


READERS: dict[str, type[TokenReader]] = {
    "mean": MeanReader,
    "newest": NewestReader,
    "decayed": DecayedReader,
    "attention": AttentionReader,
}


def make_token_reader(kind: str, config: ReaderConfig) -> TokenReader:
    """The built-in kind of that name, or a team's own.

    Raises:
        ModelConfigError: a team's own cannot be imported, or is no ``TokenReader``.
    """
    return (READERS.get(kind) or own_class(kind, TokenReader, "reader.kinds"))(config)
