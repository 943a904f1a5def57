"""A VM that answers requests: histories are decoded, and their tokens projected, once for all that read them.

Shape legend: B examples, P histories, L tokens of the longest one, K pooled vectors, D reader dim.

What a token adds to its projection is linear, and of all that is read only its age depends on the request:
c = s + a * w, a its log age, w the (centred) weights of the age. So s [P, L, D] is kept, and with |s|^2 and s . w the
scale of the LayerNorm follows from [B, L] numbers alone; c is never made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import FeatureMismatchError
from models.feed import make_batch, needed_columns, token_columns
from models.histories import decode_histories
from models.metrics import Floats
from models.readers import (
    LAYER_NORM_EPSILON,
    MASKED,
    AttentionReader,
    DecayedReader,
    EncodedTokens,
    HistoryReader,
    MeanReader,
    NewestReader,
    count_feature,
    log_age,
)
from models.vm_artifact import VmArtifact
from models.vm_data import NEVER, HistoryBatch, HistoryKey, TokenBatch, TokenPool, VmBatch, gather_tokens
from models.vm_score import with_row_columns

Ints = npt.NDArray[np.int64]

PROJECTED = (MeanReader, NewestReader, DecayedReader, AttentionReader)
"""Kinds of readers that need no projected token as a whole; others read every history anew."""


class VmServer:
    """Scores requests from one snapshot of histories.

    Args:
        artifact: the VM.
        histories: rows of table ``histories`` by key, at most one a key id, as ``export-histories`` writes them.

    Raises:
        SpaceMismatchError: histories of another space than the model reads.
        FeatureMismatchError: the histories of a key are missing, or hold a key id twice.
    """

    def __init__(self, artifact: VmArtifact, histories: Mapping[HistoryKey, pa.Table]) -> None:
        self.artifact, self.model = artifact, artifact.model.eval()
        self.lookups: dict[HistoryKey, _Lookup] = {}
        for key, needed in needed_columns(artifact.config).items():
            if key not in histories:
                raise FeatureMismatchError(f"history key {key[1]} ({key[0]}): the model reads it and none was given")
            artifact.check_space(key, histories[key])
            columns = token_columns(needed, artifact.inputs, artifact.encoder)
            table = histories[key].combine_chunks()
            decoded = decode_histories(table, np.zeros(table.num_rows, np.int64), columns, key[1])
            self.lookups[key] = _Lookup(decoded.key_id, decoded.pool, key[1])
        self.projected: dict[str, ProjectedHistories] = {}
        for name, reader in self.model.readers.items():
            keys = self.model.keys[name]
            if len(keys) == 1 and isinstance(reader, HistoryReader) and all(type(k) in PROJECTED for k in reader.kinds):
                self.projected[name] = ProjectedHistories(reader, self.lookups[keys[0]].pool)

    def score(self, rows: pa.Table) -> Floats:
        """p of requests: float64 [B].

        Args:
            rows: the vertical's features, ``event_ts``, and ``key_NAME`` where the VM reads that history.

        Raises:
            FeatureMismatchError: a column is missing.
        """
        return self.chances(self.batch(rows)).double().numpy()

    def batch(self, rows: pa.Table) -> VmBatch:
        """Requests as tensors, each with the place of its histories."""
        rows = with_row_columns(rows)
        batch = make_batch(rows, self.artifact.encoder, np.zeros(rows.num_rows, np.int64), {})
        histories = {}
        for key, lookup in self.lookups.items():
            if f"key_{key[1]}" not in rows.column_names:
                raise FeatureMismatchError(f"column key_{key[1]}: the model reads this history and it is not there")
            ids = rows[f"key_{key[1]}"]
            index = lookup.find(ids.fill_null(0).to_numpy())
            index = np.where(ids.is_valid().to_numpy(), index, 0) if ids.null_count else index
            histories[key] = HistoryBatch(torch.from_numpy(index), lookup.pool)
        return replace(batch, histories=histories)

    @torch.inference_mode()
    def chances(self, batch: VmBatch) -> Tensor:
        """p of a batch: float32 [B]."""
        fields = self.model.fields(batch)
        reads = self._read(batch, fields.flat()) if self.model.readers else None
        return self.model.output_of(fields, reads).logit.sigmoid()

    def _read(self, batch: VmBatch, flat: Tensor) -> Tensor:
        reads = []
        none = flat.new_zeros(len(batch), 0)
        for name, reader in self.model.readers.items():
            query = self.model.queries[name](flat) if name in self.model.queries else none
            histories = [batch.histories[key] for key in self.model.keys[name]]
            fast = self.projected.get(name)
            if fast is not None and fast.all_labels_visible(histories[0].index, batch.event_ts):
                reads.append(fast.read(histories[0].index, batch.event_ts, query))
            else:
                reads.append(reader(histories, batch.event_ts, query))
        return torch.cat(reads, dim=1)


class _Lookup:
    """Key ids to rows of a pool."""

    def __init__(self, key_id: Ints, pool: TokenPool, name: str) -> None:
        self.order = np.argsort(key_id, kind="stable")
        self.known, self.pool = key_id[self.order], pool
        if len(np.unique(key_id)) < len(key_id):
            raise FeatureMismatchError(f"histories of key {name}: a key id stands twice; give one snapshot")

    def find(self, ids: Ints) -> Ints:
        """Row of each id, 0 where it has none: [B]."""
        if not len(self.known):
            return np.zeros(len(ids), np.int64)
        at = np.minimum(np.searchsorted(self.known, ids), len(self.known) - 1)
        return np.where(self.known[at] == ids, self.order[at] + 1, 0)


class ProjectedHistories:
    """One reader over one key's pool, whose tokens are projected beforehand as if every label was visible.

    Args:
        reader: of a single key.
        pool: its histories; row 0 is the empty one.
    """

    @torch.inference_mode()
    def __init__(self, reader: HistoryReader, pool: TokenPool) -> None:
        self.reader, every = reader, torch.arange(len(pool.offsets) - 1)
        lengths = HistoryBatch(every, pool).lengths(reader.length)
        self.lengths = lengths
        weight = reader.project.weight - reader.project.weight.mean(dim=0)
        bias = reader.project.bias - reader.project.bias.mean()
        self.age_weight = weight[:, -1].contiguous()
        padded = _padded(pool, every, lengths)
        mask = padded.tokens.mask
        self.event_ts = torch.where(mask, padded.event_ts, 0)
        self.labels_until = padded.labels_until
        static = F.linear(reader.tokens(padded.tokens), weight, bias) * mask[..., None]
        self.static = static.contiguous()
        self.squares = static.square().sum(dim=-1)
        self.along_age = static @ self.age_weight
        self.age_square = float(self.age_weight.square().sum())

    def all_labels_visible(self, index: Tensor, event_ts: Tensor) -> bool:
        """Whether every label that the histories of B examples hold is available at each one's instant."""
        return bool((self.labels_until[index] <= event_ts).all())

    def read(self, index: Tensor, event_ts: Tensor, query: Tensor) -> Tensor:
        """What ``HistoryReader`` gives for histories ``index`` [B] at ``event_ts`` [B]: [B, width]."""
        lengths = self.lengths.index_select(0, index)
        mask = torch.arange(self.static.shape[1]) < lengths[:, None]
        age_hours = (event_ts[:, None] - self.event_ts.index_select(0, index)).float() / 3_600_000
        age, dim = log_age(age_hours), self.static.shape[2]
        spread = (
            self.squares.index_select(0, index)
            + age * (2 * self.along_age.index_select(0, index) + age * self.age_square)
        ) / dim
        scale = (spread + LAYER_NORM_EPSILON).rsqrt()
        static = self.static.index_select(0, index)
        tokens = TokenBatch(mask, age_hours, age, age, None, None, None)
        weights = torch.cat(
            [self._weights(kind, static, scale, age, tokens, query) for kind in self.reader.kinds], dim=1
        )
        scaled = weights * scale[:, None]
        pooled = torch.bmm(scaled, static) + (scaled @ age[..., None]) * self.age_weight
        pooled, count = pooled.flatten(1), count_feature(lengths[:, None], pooled.dtype)
        boundary = self.reader.boundary
        read = torch.cat([pooled, count], dim=1) if boundary is None else boundary(pooled, count, tokens)
        return torch.where(lengths[:, None] > 0, read, 0.0)

    def _weights(
        self, kind: torch.nn.Module, static: Tensor, scale: Tensor, age: Tensor, tokens: TokenBatch, query: Tensor
    ) -> Tensor:
        if not isinstance(kind, AttentionReader):
            weights: Tensor = kind(EncodedTokens(static, scale), tokens, query)
            return weights
        query = query.view(len(query), kind.pooled, kind.dim) / math.sqrt(kind.dim)
        dots = torch.bmm(query, static.transpose(1, 2)) + (query @ self.age_weight)[..., None] * age[:, None]
        scores = dots * scale[:, None] + kind.age_slope[None, :, None] * age[:, None]
        return scores.masked_fill(~tokens.mask[:, None], MASKED).softmax(dim=-1) * tokens.mask[:, None]


class _Padded(NamedTuple):
    """All histories of a pool, padded to the longest.

    ``tokens`` are of age 0, with every label that is known at some time; ``event_ts`` [P, L]; ``labels_until`` [P]:
    when the last of a history's labels becomes available.
    """

    tokens: TokenBatch
    event_ts: Tensor
    labels_until: Tensor


def _padded(pool: TokenPool, every: Tensor, lengths: Tensor) -> _Padded:
    if not len(pool.event_ts):
        raise FeatureMismatchError("histories: none holds a token; serve without them")
    place = torch.arange(max(1, int(lengths.max())))
    mask = place < lengths[:, None]
    token = (pool.offsets[:-1, None] + place).clamp(max=len(pool.event_ts) - 1)
    at = pool.label_available_at[token]
    known = (at != NEVER) & mask[..., None]
    until = torch.where(known, at, torch.iinfo(torch.int64).min).flatten(1).amax(dim=1)
    gathered = gather_tokens(pool, every, lengths.clamp(min=1), torch.full_like(every, NEVER - 1))
    tokens = replace(gathered, mask=mask, age_hours=torch.zeros_like(gathered.age_hours))
    return _Padded(tokens, pool.event_ts[token], until)
