"""Arrow batches between Spark and the numpy core: whole keys at a time, bounded in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]

CELLS = 1_000_000  # tokens that a task holds at once: a few hundred MB with the copies that merging makes
BATCH_TOKENS = 200_000  # tokens of one batch handed back to Spark


def chunks(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Join batches to chunks of at least ``rows`` rows (the last may be smaller)."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(b.num_rows for b in held) >= rows:
            yield _joined(held)
            held = []
    if any(batch.num_rows for batch in held):
        yield _joined(held)


def key_chunks(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """As ``chunks`` over rows sorted by (key, key_id), cut only where the key changes: every key is in one chunk."""
    rest: list[pa.RecordBatch] = []
    for chunk in chunks(batches, rows):
        joined = _joined([*rest, chunk])
        last = int(np.flatnonzero(key_changes(joined))[-1])
        if last:
            yield joined.slice(0, last)
        rest = [joined.slice(last)]
    yield from rest


def key_changes(rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """True where a row's (key, key_id) differs from the row before; the first row counts as a change."""
    ids, names = rows["key_id"].to_numpy(), codes(rows["key"])
    changed = np.ones(rows.num_rows, bool)
    changed[1:] = (ids[1:] != ids[:-1]) | (names[1:] != names[:-1])
    return changed


def codes(text: pa.Array) -> npt.NDArray[np.int32]:
    """Texts as small integers: equal texts, equal integers within this array."""
    return text.dictionary_encode().indices.to_numpy()


def repeated(text: str, size: int) -> pa.Array:
    """A column of one text."""
    return pa.repeat(text, size)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
