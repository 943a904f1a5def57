"""Rows of table ``histories`` to a pool of tokens, and the lookup of each example's history in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from models.codec import Codes
from models.errors import ModelConfigError
from models.vm_data import NEVER, UNKNOWN, TokenPool

Ints = npt.NDArray[np.int64]
EntityRows = Callable[[Ints], Ints]

LOOKUP_COLUMNS = ["key_id", "as_of"]
POSITION_COLUMNS = ["n", "event_ts", "labels", "label_available_at"]


@dataclass(frozen=True)
class TokenColumns:
    """Which token columns a pool keeps beside the positions, and their widths.

    ``code_bytes``: of a stored vector; ``align`` maps stored vectors [T, code_bytes] to those of the model's space.
    """

    heads: int
    code_bytes: int | None = None
    align: Callable[[Codes], Codes] | None = None
    entities: EntityRows | None = None
    entity_count: int = 0

    @property
    def names(self) -> list[str]:
        """Columns to read from table ``histories``."""
        vectors = [] if self.code_bytes is None else ["z", "logits"]
        return [*LOOKUP_COLUMNS, *POSITION_COLUMNS, *vectors, *(["entities"] if self.entities else [])]


@dataclass(frozen=True)
class Histories:
    """A pool and what finds a row of it. ``part``, ``key_id``, ``as_of``: int64 [P - 1], of pool rows 1 .. P - 1."""

    pool: TokenPool
    part: Ints
    key_id: Ints
    as_of: Ints

    def find(self, part: Ints, key_id: Ints, as_of: Ints) -> Ints:
        """Pool row of each of N examples: the history of equal (part, key_id, as_of), 0 where there is none. [N]."""
        rows = np.zeros(len(part), np.int64)
        if not len(self.key_id) or not len(part):
            return rows
        known_keys, of_row = np.unique(self.key_id, return_inverse=True)
        horizons = np.unique(self.as_of)
        own = (self.part * len(horizons) + np.searchsorted(horizons, self.as_of)) * len(known_keys) + of_row
        order = np.argsort(own, kind="stable")
        key_at, key_found = _search(known_keys, key_id)
        horizon_at, horizon_found = _search(horizons, as_of)
        wanted = (part * len(horizons) + horizon_at) * len(known_keys) + key_at
        at, found = _search(own[order], wanted)
        return np.where(found & key_found & horizon_found, order[at] + 1, 0)


def _search(known: Ints, wanted: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return at, known[at] == wanted


def decode_histories(table: pa.Table, part: Ints, columns: TokenColumns, key: str) -> Histories:
    """Decode rows of table ``histories`` (of one key) without copying per example.

    Args:
        table: columns ``columns.names``.
        part: code of each row's partition [P - 1].
        columns: what the readers need.
        key: names the history in errors.

    Raises:
        ModelConfigError: lists or packed vectors are not as long as ``n`` and the model's settings say.
    """
    counts = _flat(table["n"]).astype(np.int64)
    offsets = np.zeros(len(counts) + 2, np.int64)
    np.cumsum(counts, out=offsets[2:])
    total = int(offsets[-1])

    def lists(name: str, width: int, null: float | int | None) -> npt.NDArray[Any]:
        flat = _list_values(table[name], null)
        _check_length(key, name, len(flat), total * width)
        return flat.reshape(total, width)

    heads = columns.heads
    vectors = columns.code_bytes is not None
    z = _binary_values(table["z"]) if vectors else None
    if z is not None and columns.code_bytes is not None:
        _check_length(key, "z", len(z), total * columns.code_bytes)
        z = z.reshape(total, columns.code_bytes)
        z = columns.align(z) if columns.align is not None else z
    entities = columns.entities(lists("entities", columns.entity_count, None)) if columns.entities else None
    labels, available = lists("labels", heads, UNKNOWN), lists("label_available_at", heads, NEVER)
    pool = TokenPool(
        offsets=torch.from_numpy(offsets),
        event_ts=_tensor(lists("event_ts", 1, None)[:, 0]),
        labels=_tensor(labels),
        label_available_at=_tensor(np.where(labels < 0, NEVER, available)),
        z=None if z is None else _tensor(z),
        logits=_tensor(lists("logits", heads, 0.0)) if vectors else None,
        entities=None if entities is None else _tensor(entities),
    )
    return Histories(pool, part, _flat(table["key_id"]), _flat(table["as_of"]))


def _check_length(key: str, column: str, got: int, expected: int) -> None:
    if got != expected:
        raise ModelConfigError(
            f"histories of key {key}: column {column} holds {got} values, its tokens need {expected}; "
            "heads, entities or codec of the model differ from those that wrote the table"
        )


def _tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _flat(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    return column.to_numpy()


def _list_values(column: pa.ChunkedArray, null: float | int | None) -> npt.NDArray[Any]:
    chunks = [chunk.flatten() for chunk in column.chunks]
    if null is not None:
        chunks = [pc.fill_null(chunk, pa.scalar(null, chunk.type)) if chunk.null_count else chunk for chunk in chunks]
    arrays = [chunk.to_numpy(zero_copy_only=False) for chunk in chunks]
    empty = np.zeros(0, column.type.value_type.to_pandas_dtype())
    return np.concatenate(arrays) if arrays else empty


def _binary_values(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    arrays = [_chunk_bytes(chunk) for chunk in column.chunks]
    return np.concatenate(arrays) if arrays else np.zeros(0, np.uint8)


def _chunk_bytes(chunk: pa.Array) -> npt.NDArray[np.uint8]:
    large = pa.types.is_large_binary(chunk.type)
    _, offsets_buffer, data = chunk.buffers()
    if data is None or not len(chunk):
        return np.zeros(0, np.uint8)
    width = np.int64 if large else np.int32
    offsets = np.frombuffer(offsets_buffer, width)[chunk.offset : chunk.offset + len(chunk) + 1]
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
