from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.config import DatasetConfig
from feature_store.errors import MixedSpacesError
from feature_store.histories import histories_frame, history_requests, read_as_of, segment_parts
from feature_store.keys import key_id_column
from feature_store.schemas import HISTORIES, SEGMENTS
from feature_store.segments import cut_splits, merge_rows, segments_frame
from tests.feature_store.token_world import (
    DAY,
    HOUR,
    MINUTE,
    START,
    Row,
    by_key,
    dataset_of,
    examples_table,
    flat_key,
    flat_tokens,
    horizon,
    labels_table,
    outputs_table,
    parts_of,
    random_rows,
    readable,
    space_of,
    tokens_of,
)

CLOCKS = st.sampled_from(
    [
        {"grain": "10m", "lag": "0m"},
        {"grain": "10m", "lag": "25m", "day_offset": "3m"},
        {"grain": "1h", "lag": "5m"},
        {"grain": "1h", "lag": "1h"},
        {"grain": "1d", "lag": "1h"},
        {"grain": "1d", "lag": "25h", "day_offset": "90m"},
        {"grain": "10m", "lag": "0m", "availability": "at_once"},
        {"grain": "1h", "lag": "5m", "availability": "at_once"},
    ]
)


def segments_of(dataset: DatasetConfig, rows: list[Row], *, raw: bool) -> pa.Table:
    cut = cut_splits(dataset, "raw" if raw else "fm-a", 2)
    partial = pa.Table.from_batches(cut(iter(flat_tokens(dataset, rows, raw=raw).to_batches())), SEGMENTS)
    return pa.Table.from_batches(merge_rows(dataset.histories.length)(by_key(partial)), SEGMENTS)


def requests_of(dataset: DatasetConfig, rows: list[Row]) -> pa.Table:
    asked = {
        (
            dataset.clock.part_of(row.event_ts),
            key,
            flat_key(row, key),
            horizon(dataset, row.event_ts),
        )
        for row in rows
        for key in dataset.histories.keys
        if row.in_key(key)
    }
    return pa.table(dict(zip(("part", "key", "key_id", "as_of"), zip(*sorted(asked), strict=True), strict=True)))


def histories_of(dataset: DatasetConfig, segments: pa.Table, requests: pa.Table, space_id: str) -> dict:
    both = pa.concat_tables([segments, requests], promote_options="default")
    found = pa.Table.from_batches(read_as_of(dataset, space_id)(by_key(both)), HISTORIES)
    return {(r["key"], r["key_id"], r["part"], r["as_of"]): tokens_of(r) for r in found.to_pylist()}


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 60),
    clock=CLOCKS,
    length=st.integers(1, 4),
    grains_kept=st.integers(0, 4),
    raw=st.booleans(),
)
def test_an_example_reads_exactly_what_the_definition_allows(seed, size, clock, length, grains_kept, raw):
    dataset = dataset_of(**clock, length=length)
    dataset = dataset_of(**clock, length=length, retention=grains_kept * dataset.grain)
    rows = random_rows(seed, size, span=4 * dataset.grain, step=dataset.grain // 4)
    segments = segments_of(dataset, rows, raw=raw)
    got = histories_of(dataset, segments, requests_of(dataset, rows), "raw" if raw else "fm-a")
    for row in rows:
        for key in dataset.histories.keys:
            if row.in_key(key):
                want = readable(dataset, rows, key, row.key(key), row.event_ts, raw=raw)
                name = (key, flat_key(row, key), dataset.clock.part_of(row.event_ts), horizon(dataset, row.event_ts))
                assert got.get(name, []) == want
    assert all(got.values())


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), clock=CLOCKS, grains_kept=st.integers(0, 3), last=st.integers(0, 3))
def test_histories_need_no_segments_beyond_those_named(seed, clock, grains_kept, last):
    dataset = dataset_of(**clock)
    dataset = dataset_of(**clock, retention=grains_kept * dataset.grain)
    rows = random_rows(seed, 60, span=8 * dataset.grain, step=dataset.grain // 4)
    first = START + 3 * dataset.grain + dataset.day_offset
    asking = [r for r in rows if first <= r.event_ts < first + (last + 1) * dataset.grain]
    if not asking:
        return
    segments = segments_of(dataset, rows, raw=True)
    named = set(segment_parts(dataset, parts_of(dataset, asking)))
    some = pa.Table.from_pylist([r for r in segments.to_pylist() if r["part"] in named], SEGMENTS)
    requests = requests_of(dataset, asking)
    assert histories_of(dataset, some, requests, "raw") == histories_of(dataset, segments, requests, "raw")
    assert len(named) <= last + 3 + grains_kept


def test_at_once_a_token_is_read_from_its_arrival_on_but_not_by_its_own_instant():
    dataset = dataset_of(availability="at_once")
    early, late = random_rows(5, 2, span=1, step=1, users=1, items=1)
    late.event_ts, late.arrived_at, early.arrived_at = START + 10, START + 10 + HOUR, START
    asking = [replace(late, event_ts=START + t) for t in (0, 1, 10, 10 + HOUR - 1, 10 + HOUR)]
    segments = segments_of(dataset, [early, late], raw=True)
    got = histories_of(dataset, segments, requests_of(dataset, asking), "raw")
    read = {as_of - START: len(tokens) for (key, _, _, as_of), tokens in got.items() if key == "user"}
    assert read == {1: 1, 10: 1, 10 + HOUR - 1: 1, 10 + HOUR: 2}


def test_what_is_readable_at_once_has_no_batch_clock():
    with pytest.raises(ValueError, match=r"fm_clock: got batch; allowed with histories.availability at_once: event"):
        dataset_of(availability="at_once", fm_clock="batch")


def test_segments_read_are_bounded_by_the_retention_not_by_the_age_of_the_store():
    dataset = dataset_of(grain="1d", lag="1h", retention="7d")
    counts = {len(segment_parts(dataset, [dataset.clock.part_of(START + day * DAY)])) for day in (10, 60, 900)}
    assert counts == {8}


@pytest.mark.parametrize("availability", ["closed", "at_once"])
def test_spark_gives_the_histories_of_the_definition_and_gates_a_space(spark, availability):
    dataset = dataset_of(availability=availability)
    rows = random_rows(11, 150, span=4 * HOUR, step=15 * MINUTE)
    gate = START + 2 * HOUR
    space = space_of(cutoff=gate - 30 * MINUTE, training_lag_ms=30 * MINUTE)
    examples = spark.createDataFrame(examples_table(dataset, rows))
    outputs = spark.createDataFrame(outputs_table(dataset, rows, "fm-a"))
    labels = spark.createDataFrame(labels_table(dataset, rows))
    segments = segments_frame(spark, dataset, space, outputs, labels, parts_of(dataset, rows))
    requests = history_requests(dataset, examples, space)
    found = histories_frame(spark, dataset, "fm-a", segments, requests).toArrow()
    assert found.schema.names == HISTORIES.names
    got = {(r["key"], r["key_id"], r["part"], r["as_of"]): tokens_of(r) for r in found.to_pylist()}
    tastes = examples.select("user", "topic", key_id_column(["user", "topic"]).alias("id")).distinct().collect()
    taste_ids = {(r.user, r.topic): r.id for r in tastes}
    want = {}
    for row in rows:
        for key in dataset.histories.keys:
            tokens = readable(dataset, rows, key, row.key(key), row.event_ts, raw=False)
            if row.event_ts >= gate and row.in_key(key) and tokens:
                key_id = taste_ids[row.key(key)] if key == "taste" else row.key(key)
                want[key, key_id, dataset.clock.part_of(row.event_ts), horizon(dataset, row.event_ts)] = tokens
    assert got == want
    assert {key for key, *_ in want} == {"user", "item", "taste"}
    raw_requests = history_requests(dataset, examples, None).collect()
    assert len({tuple(r) for r in raw_requests}) == len(raw_requests) > requests.count()


def test_requests_lie_on_borders_and_are_shared_by_all_examples_of_a_key(spark):
    dataset = dataset_of()
    rows = random_rows(2, 80, span=2 * HOUR, step=MINUTE, users=1, items=1)
    examples = spark.createDataFrame(examples_table(dataset, rows))
    users = history_requests(dataset, examples, None).where("key = 'user'").orderBy("part", "as_of").collect()
    assert [r.as_of for r in users] == [START - HOUR, START, START, START + HOUR]
    assert all(a.part <= b.part for a, b in pairwise(users))


def test_segments_of_another_space_are_refused_by_both_names(spark):
    dataset = dataset_of()
    segments = spark.createDataFrame(segments_of(dataset, random_rows(1, 5, span=HOUR, step=MINUTE), raw=False))
    requests = spark.createDataFrame([], "part string, key string, key_id long, as_of long")
    with pytest.raises(MixedSpacesError, match=r"fm-a.*fm-z"):
        histories_frame(spark, dataset, "fm-z", segments, requests)
