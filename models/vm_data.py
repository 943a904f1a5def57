"""What a VM reads: its declared inputs, pools of histories, and batches of examples.

Shape legend: B examples, C categorical features, D numeric width, P histories and T tokens of a pool, L tokens of the
longest history in a batch, H heads of the space, E entities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from models.config import FeatureSpec, ReaderConfig, Strict, VmConfig
from models.errors import ModelConfigError

RAW_SPACE = "raw"
NEVER = torch.iinfo(torch.int64).max
UNKNOWN = -1

HistoryKey = tuple[Literal["fm", "raw"], str]
"""The tokens' space (``fm``: this VM's; ``raw``) and the name of the history key."""


class VmInputs(Strict):
    """What a VM of one vertical may read, and the space its FM tokens are of.

    ``heads``: verticals in the order of the space's logits. ``counters``: names of counter_* columns. ``entities``: in
    the order of raw tokens. ``code_dim`` and ``code_bits``: the packed vectors of the space.
    """

    vertical: str
    heads: list[str] = Field(min_length=1)
    space_id: str
    features: list[FeatureSpec] = Field(min_length=1)
    counters: list[str] = Field(default=[])
    entities: list[str] = Field(default=["user", "item"])
    code_dim: int = Field(default=16, ge=1)
    code_bits: Literal[4, 8, 32] = 4

    @property
    def code_bytes(self) -> int:
        """Bytes of one packed vector."""
        return self.code_dim * self.code_bits // 8

    def specs(self, config: VmConfig) -> list[FeatureSpec]:
        """Features that a VM of this config encodes: the vertical's own, and the counters where it reads them."""
        counters = self.counters if config.counters else []
        if config.counters and not counters:
            raise ModelConfigError(f"vertical {self.vertical}: the VM reads counters, but the vertical declares none")
        return [*self.features, *(FeatureSpec(name=name, kind="numeric") for name in counters)]


def history_keys(reader: ReaderConfig) -> list[HistoryKey]:
    """Which stored histories a reader takes; a control reads the positions of the FM's tokens."""
    return [("raw" if reader.tokens == "raw" else "fm", key) for key in reader.keys]


@dataclass(frozen=True)
class TokenPool:
    """Unique histories, each stored once for all examples that read it; tokens newest first, end to end.

    ``offsets`` int64 [P + 1]: history r owns tokens offsets[r] .. offsets[r + 1]; row 0 is the empty history.
    ``event_ts`` int64 [T]; ``labels`` int8 [T, H] (-1: unknown); ``label_available_at`` int64 [T, H] (NEVER where the
    label is unknown). Only where a reader needs them: ``z`` uint8 [T, code_bytes], ``logits`` float32 [T, H],
    ``entities`` int64 [T, E] (embedding rows).
    """

    offsets: Tensor
    event_ts: Tensor
    labels: Tensor
    label_available_at: Tensor
    z: Tensor | None = None
    logits: Tensor | None = None
    entities: Tensor | None = None
    _copies: dict[torch.device, TokenPool] = field(default_factory=dict, repr=False, compare=False)

    def to(self, device: torch.device) -> TokenPool:
        """The pool on another device, moved once for all batches that share it."""
        if device.type == self.offsets.device.type:
            return self
        if device not in self._copies:
            parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "_copies"}
            moved: dict[str, Any] = {name: None if part is None else part.to(device) for name, part in parts.items()}
            self._copies[device] = TokenPool(**moved)
        return self._copies[device]


@dataclass(frozen=True)
class HistoryBatch:
    """Histories of B examples: ``index`` int64 [B] into the pool's rows (0: none)."""

    index: Tensor
    pool: TokenPool

    def to(self, device: torch.device) -> HistoryBatch:
        """The batch on another device."""
        return HistoryBatch(self.index.to(device), self.pool.to(device))

    def take(self, rows: Tensor) -> HistoryBatch:
        """Histories of examples ``rows`` [B']."""
        return HistoryBatch(self.index[rows], self.pool)

    def lengths(self, limit: int | None) -> Tensor:
        """Tokens of each history, the newest ``limit`` at most: int64 [B]."""
        lengths = self.pool.offsets[self.index + 1] - self.pool.offsets[self.index]
        return lengths if limit is None else lengths.clamp(max=limit)


@dataclass(frozen=True)
class TokenBatch:
    """Tokens gathered for B examples as of each one's own instant, padded to L; masked places hold anything.

    ``mask`` bool [B, L]; ``age_hours`` float32 [B, L]; ``known`` and ``labels`` float32 [B, L, H]: 1 and the label
    where it is available at the example's instant, else 0. ``z`` [B, L, code_bytes], ``logits`` [B, L, H],
    ``entities`` [B, L, E] as in the pool.
    """

    mask: Tensor
    age_hours: Tensor
    known: Tensor
    labels: Tensor
    z: Tensor | None
    logits: Tensor | None
    entities: Tensor | None


def gather_tokens(pool: TokenPool, index: Tensor, lengths: Tensor, event_ts: Tensor) -> TokenBatch:
    """Tokens of histories ``index`` [B] (each of ``lengths`` [B] >= 1) for examples at ``event_ts`` [B].

    A label is visible iff label_available_at <= the example's event_ts.
    """
    place = torch.arange(int(lengths.max()), device=index.device)
    mask = place < lengths[:, None]
    token = (pool.offsets[index][:, None] + place).clamp_(max=len(pool.event_ts) - 1)
    flat, shape = token.view(-1), token.shape

    def take(values: Tensor) -> Tensor:
        return values.index_select(0, flat).view(*shape, *values.shape[1:])

    age_ms = event_ts[:, None] - take(pool.event_ts)
    known = (take(pool.label_available_at) <= event_ts[:, None, None]).float()
    return TokenBatch(
        mask=mask,
        age_hours=age_ms.float() / 3_600_000,
        known=known,
        labels=take(pool.labels) * known,
        z=None if pool.z is None else take(pool.z),
        logits=None if pool.logits is None else take(pool.logits),
        entities=None if pool.entities is None else take(pool.entities),
    )


def join_tokens(batches: list[TokenBatch]) -> TokenBatch:
    """Tokens of several histories of the same examples, side by side: [B, L_1 + L_2 ..]."""
    if len(batches) == 1:
        return batches[0]
    columns = {part.name: [getattr(batch, part.name) for batch in batches] for part in fields(TokenBatch)}
    joined: dict[str, Any] = {name: None if v[0] is None else torch.cat(v, dim=1) for name, v in columns.items()}
    return TokenBatch(**joined)


@dataclass(frozen=True)
class VmBatch:
    """B examples. ``cat`` int64 [B, C], ``num`` float32 [B, D], lists and masks as ``Encoded``'s; instants int64 [B].

    ``slate`` int64 [B]: equal for what was shown together, where the VM asks for it. ``label`` (nan: unknown),
    ``weight`` (effective: weight / sampling_rate), ``sampling_rate`` and ``teacher_logit`` (nan: none) are float32
    [B]; ``has_impression`` bool [B]; ``histories`` one entry per history key of the readers.
    """

    cat: Tensor
    num: Tensor
    lists: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    example_id: Tensor
    user: Tensor
    impression_id: Tensor
    has_impression: Tensor
    event_ts: Tensor
    slate: Tensor
    label: Tensor
    weight: Tensor
    sampling_rate: Tensor
    teacher_logit: Tensor
    histories: Mapping[HistoryKey, HistoryBatch]

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device) -> VmBatch:
        """The batch on another device."""
        return self if device == self.label.device else self._each(lambda value: value.to(device))

    def take(self, rows: Tensor) -> VmBatch:
        """Examples ``rows`` [B'] (int64); pools are shared, not copied."""
        return self._each(lambda value: value[rows] if isinstance(value, Tensor) else value.take(rows))

    def _each(self, change: Callable[[Any], Any]) -> VmBatch:
        changed: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            parts = value.items() if isinstance(value, Mapping) else None
            changed[part.name] = change(value) if parts is None else {key: change(item) for key, item in parts}
        return VmBatch(**changed)
