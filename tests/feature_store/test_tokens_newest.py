from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.key_stream import key_chunks
from feature_store.newest import batches_of, newest_as_of, newest_per_group

INSTANTS = st.integers(0, 12)
TOKENS = st.lists(st.tuples(st.integers(0, 3), INSTANTS, INSTANTS), max_size=40)


def columns(rows: list[tuple], width: int) -> list[np.ndarray]:
    return [np.array([row[i] for row in rows], np.int64) for i in range(width)]


@settings(deadline=None)
@given(
    tokens=TOKENS,
    requests=st.lists(st.tuples(st.integers(0, 4), INSTANTS), max_size=20, unique=True),
    length=st.integers(1, 4),
    retention=st.integers(0, 8),
    seed=st.integers(0, 1000),
)
def test_requests_read_the_newest_tokens_that_arrived_whenever_they_happened(tokens, requests, length, retention, seed):
    ids = np.random.default_rng(seed).permutation(len(tokens)).astype(np.int64) - 5
    keys, arrival_end, event_ts = columns(tokens, 3)
    asked_keys, asked_at = columns(requests, 2)
    found = newest_as_of(keys, arrival_end, event_ts, ids, asked_keys, asked_at, length=length, retention=retention)
    assert sorted(found.requests.tolist()) == list(range(len(requests)))
    borders = np.concatenate([[0], np.cumsum(found.counts)])
    for place, request in enumerate(found.requests):
        key, as_of = requests[request]
        want = sorted(
            (
                (event_ts[i], ids[i], i)
                for i in range(len(tokens))
                if keys[i] == key and arrival_end[i] <= as_of and event_ts[i] >= as_of - retention
            ),
            reverse=True,
        )[:length]
        assert found.index[borders[place] : borders[place + 1]].tolist() == [i for _, _, i in want]


@settings(deadline=None)
@given(tokens=TOKENS, length=st.integers(1, 4))
def test_a_cut_keeps_the_newest_of_each_group(tokens, length):
    group, other, event_ts = columns(tokens, 3)
    ids = np.arange(len(tokens), dtype=np.int64)
    cut = newest_per_group([group, other], event_ts, ids, length)
    got = {}
    for first, count in zip(cut.first, cut.counts, strict=True):
        index = cut.index[first : first + count]
        got[int(group[index[0]]), int(other[index[0]])] = index.tolist()
    want: dict[tuple[int, int], list[int]] = {}
    for i in sorted(range(len(tokens)), key=lambda i: (event_ts[i], ids[i]), reverse=True):
        want.setdefault((int(group[i]), int(other[i])), []).append(i)
    assert got == {key: index[:length] for key, index in want.items()}


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 9), max_size=30), limit=st.integers(1, 20))
def test_batches_cover_all_rows_and_stay_under_the_limit(counts, limit):
    slices = list(batches_of(np.array(counts, np.int64), limit))
    assert [i for rows, _ in slices for i in range(rows.start, rows.stop)] == list(range(len(counts)))
    for rows, values in slices:
        assert values.stop - values.start == sum(counts[rows])
        assert values.stop - values.start <= limit or rows.stop - rows.start == 1


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), batch=st.integers(1, 7), rows=st.integers(1, 12))
def test_a_key_is_never_split_between_chunks(sizes, batch, rows):
    ids = np.repeat(np.arange(len(sizes)) // 2, sizes)
    names = np.repeat(np.array(["item", "user"])[np.arange(len(sizes)) % 2], sizes)
    table = pa.table({"key": names.tolist(), "key_id": ids, "row": np.arange(len(ids))})
    chunks = list(key_chunks(iter(table.to_batches(max_chunksize=batch)), rows))
    assert pa.Table.from_batches(chunks).equals(table)
    seen = [set(zip(c["key"].to_pylist(), c["key_id"].to_pylist(), strict=True)) for c in chunks]
    assert sum(map(len, seen)) == len(set.union(*seen)) == len(sizes)
    assert all(c.num_rows < rows + batch + 9 for c in chunks)
