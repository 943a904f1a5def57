from __future__ import annotations

import pytest

from feature_store.errors import MixedSpacesError
from feature_store.export import export_histories
from feature_store.histories import histories_frame, history_requests
from feature_store.schemas import HISTORIES
from feature_store.segments import segments_frame
from tests.feature_store.token_world import (
    HOUR,
    MINUTE,
    START,
    dataset_of,
    examples_table,
    labels_table,
    outputs_table,
    parts_of,
    random_rows,
    readable,
    space_of,
    tokens_of,
)

T = START + 2 * HOUR + 35 * MINUTE


@pytest.fixture(scope="module")
def world(spark):
    dataset = dataset_of(retention="2h", lag="20m", length=4)
    rows = random_rows(9, 120, span=4 * HOUR, step=5 * MINUTE)
    outputs = spark.createDataFrame(outputs_table(dataset, rows, "fm-a"))
    labels = spark.createDataFrame(labels_table(dataset, rows))
    segments = segments_frame(spark, dataset, space_of(), outputs, labels, parts_of(dataset, rows))
    return dataset, rows, spark.createDataFrame(segments.toArrow())


def test_the_export_is_what_an_example_at_that_instant_reads(spark, world):
    dataset, rows, segments = world
    exported = export_histories(dataset, space_of(), segments, T).toArrow()
    assert exported.schema.names == HISTORIES.names
    got = {(r["key"], r["key_id"]): tokens_of(r) for r in exported.to_pylist()}
    for key in ("user", "item"):
        ids = {row.key(key) for row in rows}
        want = {(key, i): readable(dataset, rows, key, i, T, raw=False) for i in ids}
        assert {name: tokens for name, tokens in got.items() if name[0] == key} == {k: v for k, v in want.items() if v}
    assert any(None not in token["label_available_at"] for tokens in got.values() for token in tokens)


def test_the_export_equals_the_histories_of_examples_at_that_instant(spark, world):
    dataset, rows, segments = world
    asking = [row for row in rows if dataset.clock.as_of(row.event_ts, dataset.lag) == START + 2 * HOUR]
    examples = spark.createDataFrame(examples_table(dataset, asking))
    offline = histories_frame(spark, dataset, "fm-a", segments, history_requests(dataset, examples, space_of()))
    exported = export_histories(dataset, space_of(), segments, T)
    columns = [name for name in HISTORIES.names if name != "part"]
    served = {(r["key"], r["key_id"]): r for r in exported.select(columns).toArrow().to_pylist()}
    read = offline.select(columns).distinct().toArrow().to_pylist()
    assert len(read) > 5
    assert all(served[row["key"], row["key_id"]] == row for row in read)


def test_nothing_is_exported_before_the_space_may_be_read(world):
    dataset, _, segments = world
    late = space_of(cutoff=T - HOUR, training_lag_ms=HOUR + 1)
    assert export_histories(dataset, late, segments, T).count() == 0
    assert export_histories(dataset, late, segments, T + 1).count() > 0


def test_segments_of_another_space_are_not_exported(world):
    dataset, _, segments = world
    with pytest.raises(MixedSpacesError, match=r"fm-a.*fm-z"):
        export_histories(dataset, space_of(space_id="fm-z"), segments, T)
