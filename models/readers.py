"""History readers: the tokens of one key to a vector.

Shape legend: B examples, R of them with a history, L tokens, H heads of the space, D reader dim, K pooled vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.boundary import make_boundary
from models.codec import unpack_tensor
from models.config import ReaderConfig, TokenContent
from models.token_readers import EncodedTokens, log_age, make_token_reader
from models.vm_data import HistoryBatch, TokenBatch, VmInputs, gather_tokens, join_tokens

EmbedEntities = Callable[[Tensor], Tensor]

# Keep inputs of the token projection near unit scale: logits of rare events lie near -4.
LOGIT_SCALE = 0.25
COUNT_SCALE = 0.25
LAYER_NORM_EPSILON = 1e-5


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
        query_width: width of the query that ``forward`` takes: those of all kinds, side by side.
    """

    def __init__(self, config: ReaderConfig, inputs: VmInputs, embedding_dim: int, embed: EmbedEntities) -> None:
        super().__init__()
        self.length = config.length
        self.tokens = _token_encoder(config, inputs, embedding_dim, embed)
        sources = len(config.keys)
        self.project = nn.Linear(self.tokens.width + (sources if sources > 1 else 0), config.dim)
        kinds = [make_token_reader(kind, config) for kind in dict.fromkeys(config.kinds)]
        self.kinds = nn.ModuleList(kinds)
        self.query_widths = [reader.query_width for reader in kinds]
        self.boundary = make_boundary(config.boundary, config.dim)
        self.width = sum(reader.pooled for reader in kinds) * config.dim + sources
        self.query_width = sum(self.query_widths)

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
        queries = query.split(self.query_widths, dim=1)
        read = [reader(encoded, tokens, own) for reader, own in zip(self.kinds, queries, strict=True)]
        weights = torch.cat(read, dim=1)
        return torch.bmm(weights * encoded.scale[:, None], encoded.centred).flatten(1)


def _token_encoder(
    config: ReaderConfig, inputs: VmInputs, embedding_dim: int, embed: EmbedEntities
) -> FmTokens | RawTokens | ControlTokens:
    if config.tokens == "raw":
        return RawTokens(inputs, embedding_dim, embed)
    return FmTokens(inputs, config.content) if config.tokens == "fm" else ControlTokens(inputs)
