"""Tokens as arrays in memory and as the packed columns of segments and histories (numpy and pyarrow only)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_store.errors import ValidationError

Ints = npt.NDArray[np.int64]
Columns = dict[str, pa.Array]

UNKNOWN_LABEL = -1
NO_INSTANT = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Tokens:
    """n tokens as a struct of arrays; E entities, B bytes of z, H heads (0 where the space has none of them).

    Args:
        example_id: int64 [n].
        event_ts: int64 [n], milliseconds.
        entities: int64 [n, E].
        z: uint8 [n, B], packed vectors.
        logits: float32 [n, H].
        labels: int8 [n, H]; UNKNOWN_LABEL where null.
        label_available_at: int64 [n, H], milliseconds; NO_INSTANT where null.
    """

    example_id: Ints
    event_ts: Ints
    entities: Ints
    z: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int8]
    label_available_at: Ints

    def __len__(self) -> int:
        return len(self.event_ts)

    def take(self, index: npt.NDArray[Any]) -> Tokens:
        """The tokens at ``index``, in that order."""
        return Tokens(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def pack(tokens: Tokens, counts: Ints) -> Columns:
    """Columns of TOKEN_FIELDS, one row per entry of ``counts``: its next ``counts[i]`` tokens in the order given."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    labels, instants = tokens.labels, tokens.label_available_at
    return {
        "n": pa.array(counts, pa.int32()),
        "event_ts": _lists(tokens.event_ts, offsets),
        "entities": _lists(tokens.entities, offsets),
        "z": _bytes(tokens.z, offsets),
        "logits": _lists(tokens.logits, offsets),
        "labels": _lists(labels, offsets, labels == UNKNOWN_LABEL),
        "label_available_at": _lists(instants, offsets, instants == NO_INSTANT),
    }


def pack_ids(tokens: Tokens, counts: Ints) -> pa.Array:
    """The ``example_id`` column of segments for the same rows as ``pack``."""
    return _lists(tokens.example_id, np.concatenate([[0], np.cumsum(counts)]))


def unpack(rows: pa.RecordBatch) -> tuple[Tokens, Ints]:
    """Tokens of packed rows, row after row, and the number of tokens of each row.

    Args:
        rows: columns ``example_id`` and TOKEN_FIELDS, none of them null.

    Raises:
        ValidationError: a column does not hold the same whole number of values for every token.
    """
    counts = rows["n"].to_numpy(zero_copy_only=False).astype(np.int64)
    lists = {name: _matrix(rows[name], counts, name) for name in ("entities", "logits")}
    return (
        Tokens(
            example_id=_matrix(rows["example_id"], counts, "example_id")[:, 0],
            event_ts=_matrix(rows["event_ts"], counts, "event_ts")[:, 0],
            entities=lists["entities"],
            z=_byte_matrix(rows["z"], counts),
            logits=lists["logits"],
            labels=_matrix(rows["labels"], counts, "labels", UNKNOWN_LABEL),
            label_available_at=_matrix(rows["label_available_at"], counts, "label_available_at", NO_INSTANT),
        ),
        counts,
    )


def from_columns(rows: pa.RecordBatch, entities: list[str], heads: int) -> Tokens:
    """Tokens of flat rows, one each: columns example_id, event_ts, ``entities``, z?, logits?, label_H and available_H.

    Logits are rounded through float16: their low bits carry nothing and cost most of the bytes on disk. ``z`` and
    ``logits`` are absent where the space has no vectors; label_0 .. label_(heads - 1) and available_0 .. may be null.
    """
    size = rows.num_rows
    ones = np.ones(size, np.int64)
    with_vectors = "z" in rows.schema.names
    logits = _matrix(rows["logits"], ones, "logits") if with_vectors else np.zeros((size, 0), np.float32)
    return Tokens(
        example_id=rows["example_id"].to_numpy(),
        event_ts=rows["event_ts"].to_numpy(),
        entities=_stack([rows[name].to_numpy() for name in entities], size, np.int64),
        z=_byte_matrix(rows["z"], ones) if with_vectors else np.zeros((size, 0), np.uint8),
        logits=logits.astype(np.float16).astype(np.float32),
        labels=_stack([_filled(rows[f"label_{h}"], UNKNOWN_LABEL) for h in range(heads)], size, np.int8),
        label_available_at=_stack([_filled(rows[f"available_{h}"], NO_INSTANT) for h in range(heads)], size, np.int64),
    )


def _stack(columns: list[npt.NDArray[Any]], rows: int, dtype: Any) -> npt.NDArray[Any]:
    return np.stack(columns, axis=1).astype(dtype, copy=False) if columns else np.zeros((rows, 0), dtype)


def _filled(column: pa.Array, null: int) -> npt.NDArray[Any]:
    return column.fill_null(null).to_numpy(zero_copy_only=False)


def _lists(values: npt.NDArray[Any], offsets: Ints, mask: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    width = values.shape[1] if values.ndim == 2 else 1
    flat = pa.array(values.reshape(-1), mask=None if mask is None or not mask.any() else mask.reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets * width, pa.int32()), flat)


def _bytes(values: npt.NDArray[np.uint8], offsets: Ints) -> pa.Array:
    borders = (offsets * values.shape[1]).astype(np.int32)
    data = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(borders), pa.py_buffer(data)])


def _matrix(column: pa.Array, counts: Ints, name: str, null: int | None = None) -> npt.NDArray[Any]:
    values = column.flatten()
    if null is not None and values.null_count:
        values = values.fill_null(null)
    lengths = np.diff(column.offsets.to_numpy())
    return values.to_numpy(zero_copy_only=False).reshape(_total(counts), _width(lengths, counts, name))


def _byte_matrix(column: pa.Array, counts: Ints) -> npt.NDArray[np.uint8]:
    _, borders, data = column.buffers()
    offsets = np.frombuffer(borders, np.int32)[column.offset : column.offset + len(column) + 1]
    width = _width(np.diff(offsets), counts, "z")
    if not width:
        return np.zeros((_total(counts), 0), np.uint8)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]].reshape(-1, width)


def _total(counts: Ints) -> int:
    """Tokens in all rows."""
    return int(counts.sum())


def _width(lengths: npt.NDArray[Any], counts: Ints, name: str) -> int:
    total = _total(counts)
    width = int(lengths.sum()) // total if total else 0
    wrong = np.flatnonzero(lengths != counts * width)
    if len(wrong):
        raise ValidationError(
            f"tokens: column {name} holds {int(lengths[wrong[0]])} values for {int(counts[wrong[0]])} tokens, "
            f"other rows {width} a token; write the partitions of this space again"
        )
    return width
