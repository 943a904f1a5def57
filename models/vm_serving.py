"""A VM that answers requests: histories are decoded, and their tokens projected, once for all that read them.

Shape legend: B examples, P histories, L tokens of the longest one, K pooled vectors, D reader dim.

What a token adds to its projection is linear, and of all that is read only its age depends on the request:
c = s + a * w, a its log age, w the (centred) weights of the age. So s [P, D, L] is kept, and with |s|^2 and s . w the
scale of the LayerNorm follows from one number a token; c is never made.
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

from models import history_kernel
from models.errors import FeatureMismatchError
from models.feed import make_batch, needed_columns, token_columns
from models.histories import decode_histories
from models.history_kernel import ProjectedTokens
from models.metrics import Floats
from models.readers import COUNT_SCALE, LAYER_NORM_EPSILON, HistoryReader
from models.token_readers import AGE_SCALE, DECAYED_SCALE, READERS, AttentionReader, DecayedReader, MeanReader
from models.vm_artifact import VmArtifact
from models.vm_data import NEVER, HistoryBatch, HistoryKey, TokenBatch, TokenPool, VmBatch, gather_tokens
from models.vm_score import with_row_columns

Ints = npt.NDArray[np.int64]

PROJECTED = set(READERS.values())
"""Kinds of readers that need no projected token as a whole; a team's own read every history anew."""


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
            rows: the vertical's features, ``event_ts``, ``key_NAME`` where the VM reads that history, and
                ``impression_id`` where it compares within impressions.

        Raises:
            FeatureMismatchError: a column is missing.
        """
        return self.chances(self.batch(rows)).double().numpy()

    def batch(self, rows: pa.Table) -> VmBatch:
        """Requests as tensors, each with the place of its histories."""
        rows = with_row_columns(rows)
        slates, part = self.artifact.config.within_impression, np.zeros(rows.num_rows, np.int64)
        batch = make_batch(rows, self.artifact.encoder, part, {}, slates=slates)
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
        return self.model.compared(torch.cat(reads, dim=1), batch.slate)


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
        padded = _padded(pool, every, lengths)
        self.labels_until = padded.labels_until
        self.tokens = _project(reader, padded, lengths)
        rows = [row for kind in reader.kinds for row in _pooled_rows(kind)]
        self.kinds = np.array([kind for kind, _ in rows])
        self.values = np.array([value for _, value in rows], np.float32)
        # The kernel is compiled by its first call: not by the first request.
        none = torch.zeros(0, dtype=torch.int64)
        self.read(none, none, torch.zeros(0, reader.query_width))

    def all_labels_visible(self, index: Tensor, event_ts: Tensor) -> bool:
        """Whether every label that the histories of B examples hold is available at each one's instant."""
        return bool((self.labels_until[index] <= event_ts).all())

    def read(self, index: Tensor, event_ts: Tensor, query: Tensor) -> Tensor:
        """What ``HistoryReader`` gives for histories ``index`` [B] at ``event_ts`` [B]: [B, width]."""
        read = torch.empty(len(index), len(self.kinds) * self.tokens.dim + 1)
        history_kernel.pool(
            self.tokens, index.numpy(), event_ts.numpy(), query.numpy(), self.kinds, self.values, read.numpy()
        )
        boundary = self.reader.boundary
        if boundary is None:
            return read
        served = boundary.served(read[:, :-1], read[:, -1:])
        return torch.where(read[:, -1:] > 0, served, 0.0)


def _pooled_rows(kind: torch.nn.Module) -> list[tuple[int, float]]:
    """Kind and value of each vector that a reader pools, as the kernel takes them."""
    if isinstance(kind, DecayedReader):
        return [(history_kernel.DECAYED, math.log(2) / 60 * rate) for rate in (-kind.log_half_life).exp().tolist()]
    if isinstance(kind, AttentionReader):
        return [(history_kernel.ATTENTION, slope) for slope in kind.age_slope.tolist()]
    return [(history_kernel.MEAN if isinstance(kind, MeanReader) else history_kernel.NEWEST, 0.0)]


def _project(reader: HistoryReader, padded: _Padded, lengths: Tensor) -> ProjectedTokens:
    mask = padded.tokens.mask
    weight = reader.project.weight - reader.project.weight.mean(dim=0)
    bias = reader.project.bias - reader.project.bias.mean()
    dim, age_weight = len(weight), weight[:, -1]
    static = F.linear(reader.tokens(padded.tokens), weight, bias) * mask[..., None]
    tokens, dims = -mask.shape[1] % history_kernel.TOKEN_MULTIPLE, -dim % history_kernel.DIM_MULTIPLE
    event_ts = F.pad(torch.where(mask, padded.event_ts, 0), (0, tokens))
    return ProjectedTokens(
        lengths=lengths.numpy(),
        event_ts=event_ts.numpy(),
        static=F.pad(static.transpose(1, 2), (0, tokens, 0, dims)).contiguous().numpy(),
        squares=F.pad(static.square().sum(dim=-1), (0, tokens)).numpy(),
        along_age=F.pad(static @ age_weight, (0, tokens)).numpy(),
        age_weight=F.pad(age_weight, (0, dims)).contiguous().numpy(),
        dim=dim,
        age_scale=np.float32(AGE_SCALE),
        decayed_scale=np.float32(DECAYED_SCALE),
        count_scale=np.float32(COUNT_SCALE),
        epsilon=np.float32(LAYER_NORM_EPSILON),
    )


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
