from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from feature_store.errors import MixedSpacesError
from feature_store.features import features_frame
from feature_store.schemas import features_schema
from tests.feature_store.token_world import (
    DAY,
    HOUR,
    MINUTE,
    START,
    Row,
    dataset_of,
    examples_table,
    labels_table,
    outputs_table,
    space_of,
)

COUNTERS = {
    "as_of": [{"name": "seen", "kind": "count", "key": ["item"], "windows": ["1d"]}],
    "verticals": {
        "feed": {"label": "click", "features": ["user", "topic"], "counters": ["seen"]},
        "shop": {"label": "buy", "features": ["item", "price"]},
    },
}


def row_of(example_id: int, event_ts: int, **changes: Any) -> Row:
    plain = {"user": 1, "item": 100, "topic": 7, "arrived_at": event_ts, "z": b"abc", "logits": (0.5, -1.5)}
    return Row(example_id=example_id, event_ts=event_ts, **(plain | changes))


def features_of(spark: Any, dataset: Any, space: Any, rows: list[Row], *, scored: list[Row] | None = None) -> dict:
    counters = pa.table(
        {
            "part": [dataset.clock.part_of(r.event_ts) for r in rows],
            "example_id": pa.array([r.example_id for r in rows], pa.int64()),
            "counter_seen_1d": pa.array([float(r.example_id) for r in rows], pa.float32()),
        }
    )
    frame = features_frame(
        spark,
        dataset,
        space,
        spark.createDataFrame(examples_table(dataset, rows)),
        spark.createDataFrame(labels_table(dataset, rows)),
        spark.createDataFrame(outputs_table(dataset, rows if scored is None else scored, "fm-a")),
        spark.createDataFrame(counters) if dataset.as_of else None,
    )
    table = frame.toArrow()
    assert table.schema.names == features_schema(dataset).names
    assert [f.type for f in table.schema] == [f.type for f in features_schema(dataset)]
    return {(r["vertical"], r["example_id"]): r for r in table.to_pylist()}


def test_a_row_per_example_and_vertical_with_only_what_the_vertical_may_see(spark):
    dataset = dataset_of(**COUNTERS)
    known = {0: (1, START + HOUR), 1: (0, START + 90 * DAY)}
    rows = [row_of(4, START + MINUTE, labels=known), row_of(6, START + HOUR, labels={1: (1, START + HOUR)}, topic=None)]
    got = features_of(spark, dataset, space_of(), rows, scored=rows[:1])
    assert set(got) == {("feed", 4), ("shop", 4), ("feed", 6), ("shop", 6)}
    feed, shop = got["feed", 4], got["shop", 4]
    assert (feed["topic"], feed["price"], feed["counter_seen_1d"]) == (7, None, 4.0)
    assert (shop["topic"], shop["price"], shop["counter_seen_1d"]) == (None, 2.0, None)
    assert (feed["teacher_logit"], shop["teacher_logit"]) == (0.5, -1.5)
    assert (shop["label"], shop["label_available_at"]) == (0, START + 90 * DAY)
    assert (feed["key_user"], feed["key_item"], feed["as_of"]) == (1, 100, START - HOUR)
    assert feed["key_taste"] == shop["key_taste"] is not None
    assert (got["shop", 6]["key_taste"], got["shop", 6]["teacher_logit"], got["shop", 6]["as_of"]) == (
        None,
        None,
        START,
    )


def test_an_example_without_a_label_is_a_row_of_each_vertical_whose_filter_it_meets(spark):
    shop = {"label": "buy", "features": ["item", "price"], "where": "topic = 7 and cast('x' as int) is null"}
    dataset = dataset_of(verticals={"feed": {"label": "click", "features": ["user"]}, "shop": shop})
    rows = [row_of(1, START), row_of(2, START, topic=8), row_of(3, START, topic=None, labels={0: (0, START)})]
    rows.append(row_of(4, START, topic=8, labels={1: (1, START + DAY)}))
    got = features_of(spark, dataset, space_of(), rows)
    labels = {key: (row["label"], row["label_available_at"]) for key, row in got.items()}
    assert labels == {
        ("feed", 1): (None, None),
        ("feed", 2): (None, None),
        ("feed", 3): (0, START),
        ("feed", 4): (None, None),
        ("shop", 1): (None, None),
        ("shop", 4): (1, START + DAY),
    }
    assert (got["feed", 2]["teacher_logit"], got["shop", 1]["teacher_logit"]) == (0.5, -1.5)


def test_rows_up_to_the_cutoff_are_absent_and_rows_before_the_training_lag_read_no_history(spark):
    dataset = dataset_of()
    cutoff = START + HOUR
    labels = {0: (1, START)}
    rows = [row_of(i, START + i * HOUR, labels=labels) for i in range(5)]
    got = features_of(spark, dataset, space_of(cutoff=cutoff, training_lag_ms=2 * HOUR), rows)
    assert {example: row["as_of"] for (_, example), row in got.items()} == {
        2: None,
        3: START + 2 * HOUR,
        4: START + 3 * HOUR,
    }


def test_the_teacher_speaks_in_the_order_of_the_space(spark):
    dataset = dataset_of()
    row = row_of(1, START, labels={0: (1, START), 1: (1, START)})
    got = features_of(spark, dataset, space_of(heads=["shop", "feed"]), [row])
    assert (got["shop", 1]["teacher_logit"], got["feed", 1]["teacher_logit"]) == (0.5, -1.5)
    alone = features_of(spark, dataset, space_of(heads=["feed"]), [row])
    assert (alone["feed", 1]["teacher_logit"], alone["shop", 1]["teacher_logit"]) == (0.5, None)


def test_a_teacher_of_another_space_is_refused_by_both_names(spark):
    with pytest.raises(MixedSpacesError, match=r"fm-a.*fm-z"):
        features_of(spark, dataset_of(), space_of(space_id="fm-z"), [row_of(1, START)])
