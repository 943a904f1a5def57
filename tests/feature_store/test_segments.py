from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from feature_store.config import DatasetConfig
from feature_store.errors import MixedSpacesError
from feature_store.schemas import SEGMENTS
from feature_store.segments import cut_splits, merge_rows, merged_segments, segments_frame, split_segments
from feature_store.token_columns import labels_by_head
from tests.feature_store.token_world import (
    HOUR,
    MINUTE,
    START,
    Row,
    arrival_end,
    by_key,
    comparable,
    dataset_of,
    examples_table,
    flat_key,
    flat_tokens,
    labels_table,
    outputs_table,
    parts_of,
    past_table,
    random_rows,
    space_of,
    token_of,
    tokens_of,
)


def row_of(example_id: int, event_ts: int, **changes: Any) -> Row:
    plain = {"user": 1, "item": 100, "topic": 7, "arrived_at": event_ts, "z": b"abc", "logits": (0.5, -0.5)}
    return Row(example_id=example_id, event_ts=event_ts, **(plain | changes))


def expected(dataset: DatasetConfig, rows: list[Row], *, raw: bool) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[Row]] = {}
    for row in sorted(rows, key=lambda r: (r.event_ts, r.example_id), reverse=True):
        for key in dataset.histories.keys:
            if row.in_key(key):
                name = (key, dataset.clock.part_of(row.event_ts), flat_key(row, key), arrival_end(dataset, row))
                groups.setdefault(name, []).append(row)
    return {name: [token_of(r, raw=raw) for r in group[: dataset.histories.length]] for name, group in groups.items()}


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 60),
    grain=st.sampled_from(["10m", "1h", "1d"]),
    length=st.integers(1, 4),
    raw=st.booleans(),
    splits=st.integers(1, 4),
)
def test_segments_are_the_newest_tokens_of_each_arrival_however_rows_are_split(seed, size, grain, length, raw, splits):
    dataset = dataset_of(grain=grain, length=length)
    rows = random_rows(seed, size, span=3 * dataset.grain, step=dataset.grain // 4)
    tokens = flat_tokens(dataset, rows, raw=raw)
    cut = cut_splits(dataset, "raw" if raw else "fm-a", 2)
    partial = [
        b
        for i in range(splits)
        for b in cut(iter(tokens.take(pa.array(range(i, size, splits), pa.int64())).to_batches()))
    ]
    merged = pa.Table.from_batches(merge_rows(length)(by_key(pa.Table.from_batches(partial, SEGMENTS))), SEGMENTS)
    got = {(r["key"], r["part"], r["key_id"], r["arrival_end"]): tokens_of(r) for r in merged.to_pylist()}
    assert len(got) == merged.num_rows
    assert got == expected(dataset, rows, raw=raw)


def test_partitions_in_any_order_singly_or_as_a_range_give_the_same_rows(spark):
    dataset = dataset_of()
    rows = random_rows(5, 120, span=3 * HOUR, step=15 * MINUTE)
    outputs = spark.createDataFrame(outputs_table(dataset, rows, "fm-a"))
    labels = spark.createDataFrame(labels_table(dataset, rows))
    parts = parts_of(dataset, rows)

    def written(some: list[str]) -> list[dict]:
        frame = segments_frame(spark, dataset, space_of(), outputs, labels, some)
        assert frame.schema.names == SEGMENTS.names
        return frame.toArrow().to_pylist()

    whole = written(parts)
    singly = [row for part in reversed(parts) for row in written([part])]
    assert comparable(whole) == comparable(singly)
    assert {row["space_id"] for row in whole} == {"fm-a"}
    users = {(r["part"], r["key_id"], r["arrival_end"]): tokens_of(r) for r in whole if r["key"] == "user"}
    assert users == {
        name[1:]: tokens for name, tokens in expected(dataset, rows, raw=False).items() if name[0] == "user"
    }


def test_a_hot_key_is_cut_within_each_split_before_the_exchange(spark):
    dataset = dataset_of(length=4)
    rows = 20_000
    tokens = spark.range(rows, numPartitions=4).select(
        F.lit(dataset.clock.part_of(START)).alias("part"),
        F.col("id").alias("example_id"),
        F.when(F.col("id") % 5 == 0, F.lit(1)).otherwise(F.col("id")).alias("user"),
        F.lit(100).cast("long").alias("item"),
        F.lit(None).cast("long").alias("topic"),
        (F.lit(START) + F.col("id") % 1000).alias("event_ts"),
        F.lit(START).cast("long").alias("arrived_at"),
    )
    none = spark.createDataFrame(labels_table(dataset, []))
    joined = tokens.join(F.broadcast(labels_by_head(dataset.heads, none)), ["part", "example_id"], "left")
    partial = split_segments(dataset, None, joined).cache()
    sent = {(r.key, r.key_id): r.sent for r in partial.groupBy("key", "key_id").agg(F.sum("n").alias("sent")).collect()}
    assert sent["user", 1] <= 4 * 4
    assert sent["item", 100] <= 4 * 4
    assert not any(key == "taste" for key, _ in sent)
    item = merged_segments(dataset, partial).where("key = 'item'").toArrow().to_pylist()
    assert item[0]["example_id"] == [19_999, 18_999, 17_999, 16_999]
    partial.unpersist()


def test_a_past_event_that_is_also_an_example_counts_once(spark):
    dataset = dataset_of(length=5, labels={"click": {"value": "c", "delay": "7s"}, "buy": {"value": "b"}})
    examples = [row_of(1, START + 5, labels={0: (0, START + 9)}, arrived_at=START + HOUR)]
    past = [row_of(2, START + 5, past_label=1), row_of(3, START + 6, past_label=1), row_of(4, START + 7)]
    frame = segments_frame(
        spark,
        dataset,
        None,
        spark.createDataFrame(examples_table(dataset, examples)),
        spark.createDataFrame(labels_table(dataset, examples)),
        [dataset.clock.part_of(START)],
        spark.createDataFrame(past_table(dataset, past)),
    )
    users = {r["arrival_end"]: r for r in frame.where("key = 'user'").toArrow().to_pylist()}
    assert users[START + 2 * HOUR]["example_id"] == [1]
    assert users[START + HOUR]["example_id"] == [4, 3]
    assert users[START + HOUR]["labels"] == [None, None, 1, None]
    assert users[START + HOUR]["label_available_at"] == [None, None, START + 6 + 7_000, None]
    assert users[START + HOUR]["entities"] == [1, 100, 1, 100]


def test_a_token_kept_for_its_label_arrives_with_its_label(spark):
    dataset = dataset_of(length=5, raw_label="click")
    rows = [
        row_of(1, START, labels={0: (1, START + 10)}),
        row_of(2, START + 1, labels={0: (1, START + HOUR)}),
        row_of(3, START + 2, labels={0: (0, START + 10), 1: (1, START + 10)}),
        row_of(4, START + 3),
    ]
    frame = segments_frame(
        spark,
        dataset,
        None,
        spark.createDataFrame(examples_table(dataset, rows)),
        spark.createDataFrame(labels_table(dataset, rows)),
        [dataset.clock.part_of(START)],
    )
    users = {r["arrival_end"]: r["example_id"] for r in frame.where("key = 'user'").toArrow().to_pylist()}
    assert users == {START + HOUR: [1], START + 2 * HOUR: [2]}


def test_outputs_of_another_space_are_refused_by_both_names(spark):
    dataset = dataset_of()
    rows = [row_of(1, START)]
    outputs = spark.createDataFrame(outputs_table(dataset, rows, "fm-b"))
    labels = spark.createDataFrame(labels_table(dataset, rows))
    with pytest.raises(MixedSpacesError, match=r"fm-b.*fm-a"):
        segments_frame(spark, dataset, space_of(), outputs, labels, parts_of(dataset, rows))
