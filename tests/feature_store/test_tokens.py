from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.errors import ValidationError
from feature_store.tokens import NO_INSTANT, UNKNOWN_LABEL, Tokens, pack, pack_ids, unpack


def random_tokens(seed: int, size: int, entities: int, code_bytes: int, heads: int) -> Tokens:
    rng = np.random.default_rng(seed)
    big = np.iinfo(np.int64)
    unknown = rng.random((size, heads)) < 0.4
    return Tokens(
        example_id=rng.integers(big.min, big.max, size),
        event_ts=rng.integers(0, big.max, size),
        entities=rng.integers(big.min, big.max, (size, entities)),
        z=rng.integers(0, 256, (size, code_bytes)).astype(np.uint8),
        logits=rng.normal(size=(size, heads)).astype(np.float32),
        labels=np.where(unknown, UNKNOWN_LABEL, rng.integers(0, 2, (size, heads))).astype(np.int8),
        label_available_at=np.where(unknown, NO_INSTANT, rng.integers(0, big.max, (size, heads))),
    )


def packed(tokens: Tokens, counts: list[int]) -> pa.RecordBatch:
    sizes = np.array(counts, np.int64)
    return pa.RecordBatch.from_pydict({"example_id": pack_ids(tokens, sizes), **pack(tokens, sizes)})


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    entities=st.integers(0, 3),
    code_bytes=st.integers(0, 9),
    heads=st.integers(1, 3),
)
def test_unpacking_gives_back_what_was_packed(seed, counts, entities, code_bytes, heads):
    tokens = random_tokens(seed, sum(counts), entities, code_bytes, heads)
    rows = packed(tokens, counts)
    again, sizes = unpack(rows)
    assert sizes.tolist() == counts
    for name in Tokens.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(tokens, name), err_msg=name)
    tail, _ = unpack(rows.slice(len(counts) // 2))
    np.testing.assert_array_equal(tail.z, tokens.z[sum(counts[: len(counts) // 2]) :])
    np.testing.assert_array_equal(tail.labels, tokens.labels[sum(counts[: len(counts) // 2]) :])


def test_unknown_labels_are_null_in_tables():
    tokens = random_tokens(5, 20, 1, 2, 2)
    rows = packed(tokens, [20])
    flat = rows["labels"].flatten()
    assert flat.null_count == int((tokens.labels == UNKNOWN_LABEL).sum()) > 0
    assert rows["label_available_at"].flatten().null_count == flat.null_count


@pytest.mark.parametrize("column", ["z", "logits"])
def test_tokens_of_two_sizes_are_refused_by_name(column):
    small, large = (packed(random_tokens(1, 2, 0, size, size), [2]) for size in (2, 3))
    rows = pa.concat_batches([small, small.set_column(small.schema.names.index(column), column, large[column])])
    with pytest.raises(ValidationError, match=column):
        unpack(rows)
