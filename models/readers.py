"""History readers: the tokens of one key to a vector.

Shape legend: B examples, R of them with a history, L tokens, H heads of the space, D reader dim, K pooled vectors,
Q width of the query.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.boundary import make_boundary
from models.codec import unpack_tensor
from models.config import ReaderConfig, TokenContent
from models.vm_data import HistoryBatch, TokenBatch, VmInputs, gather_tokens, join_tokens

EmbedEntities = Callable[[Tensor], Tensor]

# Keep inputs of the token projection near unit scale: logits of rare events lie near -4, ages reach weeks.
LOGIT_SCALE = 0.25
AGE_SCALE = 0.2
COUNT_SCALE = 0.25
# A decayed sum of a full history of 50 tokens stays near the scale of their mean.
DECAYED_SCALE = 1 / 8
MASKED = -1e4
LAYER_NORM_EPSILON = 1e-5


class EncodedTokens(NamedTuple):
    """Projected tokens less their mean [R, L, D], and ``scale`` [R, L]: scale * centred is their LayerNorm.

    Readers pool with weights * scale: the normalised tokens, the widest tensor of a VM, are never made. LayerNorm has
    no affine part of its own; the layers that read the pooled vectors have one.
    """

    centred: Tensor
    scale: Tensor


class InverseDeviation(torch.autograd.Function):
    """1 / sqrt(mean of squares + epsilon) over the last dimension, in one pass each way: [.., D] -> [..]."""

    @staticmethod
    def forward(ctx: Any, centred: Tensor) -> Tensor:
        """[.., D] -> [..]."""
        mean_square = torch.linalg.vector_norm(centred, dim=-1).square_() / centred.shape[-1]
        scale = (mean_square + LAYER_NORM_EPSILON).rsqrt_()
        ctx.save_for_backward(centred, scale)
        return scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """d scale / d x = -scale^3 * x / D."""
        centred, scale = ctx.saved_tensors
        return centred * (gradients[0] * scale.pow(3) / -centred.shape[-1])[..., None]


def log_age(age_hours: Tensor) -> Tensor:
    """log(1 + age in minutes), scaled. Any shape."""
    return (age_hours * 60).clamp(min=0).log1p() * AGE_SCALE


def count_feature(lengths: Tensor, dtype: torch.dtype) -> Tensor:
    """log(1 + number of tokens), scaled. Any shape."""
    return lengths.to(dtype).log1p() * COUNT_SCALE


def position_columns(tokens: TokenBatch) -> list[Tensor]:
    """What every kind of token tells: label and label-known flag a head, and log age. Each [R, L, *]."""
    return [tokens.labels, tokens.known, log_age(tokens.age_hours)[..., None]]


class ControlTokens(nn.Module):
    """Positions only: every FM-derived column is absent (method section 5.8)."""

    def __init__(self, inputs: VmInputs) -> None:
        super().__init__()
        self.width = 2 * len(inputs.heads) + 1

    def forward(self, tokens: TokenBatch) -> Tensor:
        """[R, L, width]."""
        return torch.cat(position_columns(tokens), dim=-1)


class FmTokens(nn.Module):
    """What the FM said of each token, beside the positions; ``content`` chooses the columns.

    ``z``; ``z_residual``: z * (y - p), y - p summed over the heads whose label is visible; ``logit``: logit and p of
    each head; ``residual``: y - p of each head, 0 where y is not visible; ``label``: without it positions tell the age
    alone.
    """

    def __init__(self, inputs: VmInputs, content: list[TokenContent]) -> None:
        super().__init__()
        self.bits, self.content = inputs.code_bits, content
        heads = len(inputs.heads)
        widths = {"z": inputs.code_dim, "z_residual": inputs.code_dim, "residual": heads}
        self.width = sum(widths.get(name, 2 * heads) for name in content) + 1

    def forward(self, tokens: TokenBatch) -> Tensor:
        """[R, L, width]."""
        assert tokens.z is not None
        assert tokens.logits is not None
        z = unpack_tensor(tokens.z, self.bits)
        p = tokens.logits.sigmoid()
        residual = (tokens.labels - p) * tokens.known
        label, known, age = position_columns(tokens)
        columns = {
            "z": [z],
            "z_residual": [z * residual.sum(dim=-1, keepdim=True)],
            "logit": [tokens.logits * LOGIT_SCALE, p],
            "residual": [residual],
            "label": [label, known],
        }
        return torch.cat([column for name in self.content for column in columns[name]] + [age], dim=-1)


class RawTokens(nn.Module):
    """Embeddings of the token's entities, beside the positions."""

    def __init__(self, inputs: VmInputs, embedding_dim: int, embed: EmbedEntities) -> None:
        super().__init__()
        self.width = len(inputs.entities) * embedding_dim + 2 * len(inputs.heads) + 1
        self.embed = embed

    def forward(self, tokens: TokenBatch) -> Tensor:
        """[R, L, width]."""
        assert tokens.entities is not None
        return torch.cat([self.embed(tokens.entities).flatten(-2), *position_columns(tokens)], dim=-1)


class MeanReader(nn.Module):
    """The mean of the tokens."""

    pooled = 1

    def forward(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        """Weights [R, 1, L] of the tokens; masked places are 0."""
        mask = tokens.mask.to(encoded.scale.dtype)
        return (mask / mask.sum(dim=1, keepdim=True))[:, None]


class NewestReader(nn.Module):
    """The newest token alone: the key's last known state, undiluted."""

    pooled = 1

    def forward(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        """Weights [R, 1, L] of the tokens, which stand newest first."""
        weights = torch.zeros_like(encoded.scale)
        weights[:, 0] = tokens.mask[:, 0].to(weights.dtype)
        return weights[:, None]


class DecayedReader(nn.Module):
    """Sums that halve with age, one a half-life; half-lives are learned from the given ones on, or stay."""

    def __init__(self, half_lives_hours: list[float], learn: bool) -> None:
        super().__init__()
        self.log_half_life = nn.Parameter(torch.tensor(half_lives_hours).log(), requires_grad=learn)
        self.pooled = len(half_lives_hours)

    def forward(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        """Weights [R, K, L] of the tokens; masked places are 0."""
        rate = (-self.log_half_life).exp()
        weights = torch.exp2(-tokens.age_hours[:, None] * rate[None, :, None])
        return weights * tokens.mask[:, None] * DECAYED_SCALE


class AttentionReader(nn.Module):
    """Target attention: a query made of the current example's features scores each token by dot product.

    The query is projected into the tokens' space per head, so keys need no projection of their own; a learned slope
    on log age a head lets it prefer recent tokens.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.pooled = heads
        self.dim = dim
        self.age_slope = nn.Parameter(torch.zeros(heads))

    def forward(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        """Weights [R, heads, L] of the tokens, query [R, heads * D]; masked places are 0."""
        query = query.view(len(query), self.pooled, self.dim) / math.sqrt(self.dim)
        scores = torch.bmm(query, encoded.centred.transpose(1, 2)) * encoded.scale[:, None]
        scores = scores + self.age_slope[None, :, None] * log_age(tokens.age_hours)[:, None]
        scores = scores.masked_fill(~tokens.mask[:, None], MASKED)
        return scores.softmax(dim=-1) * tokens.mask[:, None]


class HistoryReader(nn.Module):
    """All readers of the tokens of one key, or of several together, over one projection of them (linear and LayerNorm).

    Tokens of several keys carry their key as one-hot columns, so that one attention weighs them against each other.

    Args:
        config: keys, kind of tokens, kinds of readers.
        inputs: the space's heads and codes.
        embedding_dim: of raw tokens' entities.
        embed: entity rows [.., E] -> embeddings [.., E, embedding_dim].

    Attributes:
        width: of the output: K pooled vectors of dim D, and the (log) number of tokens of each key.
        query_width: width of the query that ``forward`` takes; 0 without target attention.
    """

    def __init__(self, config: ReaderConfig, inputs: VmInputs, embedding_dim: int, embed: EmbedEntities) -> None:
        super().__init__()
        self.length = config.length
        self.tokens = _token_encoder(config, inputs, embedding_dim, embed)
        sources = len(config.keys)
        self.project = nn.Linear(self.tokens.width + (sources if sources > 1 else 0), config.dim)
        kinds = [_reader(kind, config) for kind in dict.fromkeys(config.kinds)]
        self.kinds = nn.ModuleList(kinds)
        self.boundary = make_boundary(config.boundary, config.dim)
        self.width = sum(reader.pooled for reader in kinds) * config.dim + sources
        self.query_width = config.heads * config.dim if "attention" in config.kinds else 0

    def forward(self, histories: list[HistoryBatch], event_ts: Tensor, query: Tensor) -> Tensor:
        """Histories by key at ``event_ts`` [B], query [B, query_width] -> [B, width]; exact zeros where empty."""
        lengths = torch.stack([history.lengths(self.length) for history in histories], dim=1)
        rows = lengths.any(dim=1).nonzero().squeeze(1)
        if not len(rows):
            return query.new_zeros(len(lengths), self.width)
        lengths = lengths[rows]
        gathered = [
            gather_tokens(history.pool, history.index[rows], lengths[:, place], event_ts[rows])
            for place, history in enumerate(histories)
        ]
        tokens = join_tokens(gathered)
        encoded = self._encode(tokens, [batch.mask.shape[1] for batch in gathered])
        pooled = self._pool(encoded, tokens, query[rows])
        count = count_feature(lengths, pooled.dtype)
        read = torch.cat([pooled, count], dim=1) if self.boundary is None else self.boundary(pooled, count, tokens)
        return read.new_zeros(len(event_ts), self.width).index_copy(0, rows, read)

    def _encode(self, tokens: TokenBatch, sizes: list[int]) -> EncodedTokens:
        columns = self.tokens(tokens)
        if len(sizes) > 1:
            repeats = torch.tensor(sizes, device=columns.device)
            of_key = torch.eye(len(sizes), device=columns.device).repeat_interleave(repeats, dim=0)
            columns = torch.cat([columns, of_key.expand(len(columns), -1, -1)], dim=-1)
        # Centring the weights centres what they make.
        weight, bias = self.project.weight, self.project.bias
        centred = F.linear(columns, weight - weight.mean(dim=0), bias - bias.mean())
        return EncodedTokens(centred, InverseDeviation.apply(centred))

    def _pool(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        weights = torch.cat([reader(encoded, tokens, query) for reader in self.kinds], dim=1)
        return torch.bmm(weights * encoded.scale[:, None], encoded.centred).flatten(1)


def _token_encoder(
    config: ReaderConfig, inputs: VmInputs, embedding_dim: int, embed: EmbedEntities
) -> FmTokens | RawTokens | ControlTokens:
    if config.tokens == "raw":
        return RawTokens(inputs, embedding_dim, embed)
    return FmTokens(inputs, config.content) if config.tokens == "fm" else ControlTokens(inputs)


def _reader(kind: str, config: ReaderConfig) -> MeanReader | NewestReader | DecayedReader | AttentionReader:
    if kind == "attention":
        return AttentionReader(config.dim, config.heads)
    if kind == "newest":
        return NewestReader()
    return DecayedReader(config.half_lives_hours, config.learn_half_lives) if kind == "decayed" else MeanReader()
