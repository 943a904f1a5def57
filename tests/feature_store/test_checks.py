from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from feature_store import commits
from feature_store.errors import MissingInputError, MixedSpacesError, ValidationError
from feature_store.spaces import SpaceRegistry
from feature_store.tables import TableStore
from tests.conftest import make_dataset
from tests.feature_store.store_world import DAY_1, DAY_2, ROWS, SPACE, STEP, commit, example, frame, label, output

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = TableStore(str(tmp_path_factory.mktemp("checks") / "tables"), make_dataset())
    SpaceRegistry(store).add(SPACE)
    return store


def rows_of(store, table, **changes):
    return [ROWS[table](store, DAY_1, 1), ROWS[table](store, DAY_1, 2) | changes]


@pytest.mark.parametrize("table", ROWS)
def test_valid_rows_pass(spark, store, table):
    commit(spark, store, rows_of(store, table), [DAY_1], table)


BROKEN = [
    ("examples", {"user": None}, "column user is null"),
    ("examples", {"example_id": 1}, r"the key \(example_id\) occurs twice"),
    ("examples", {"price": NAN}, "column price is not finite"),
    ("examples", {"weight": -INF}, "column weight is not finite"),
    ("examples", {"event_ts": 0}, "event_ts lies outside its part"),
    ("examples", {"part": DAY_2}, "part lies outside 2026-01-01 .. 2026-01-01 at part=2026-01-02"),
    ("examples", {"part": None}, "column part is null"),
    ("labels", {"example_id": 1}, r"the key \(example_id, vertical\) occurs twice"),
    ("labels", {"label": None}, "column label is null"),
    ("fm_outputs", {"z": b"\x01"}, "column z is not 2 bytes a token"),
    ("fm_outputs", {"logits": [0.1]}, "column logits is not 2 values a token"),
    ("fm_outputs", {"logits": [0.1, NAN]}, "column logits holds a value that is not finite"),
    ("segments", {"n": 3}, "column event_ts is not 1 values a token"),
    ("segments", {"z": b"\x01\x02"}, "column z is not 2 bytes a token"),
    ("segments", {"labels": [None]}, "column labels is not 2 values a token"),
    ("segments", {"entities": [1, 2]}, "column entities is not 0 values a token"),
    ("segments", {"key_id": 1}, r"the key \(key_id, arrival_end\) occurs twice"),
    ("histories", {"key_id": 1}, r"the key \(key_id, as_of\) occurs twice"),
    ("histories", {"as_of": None}, "column as_of is null"),
    ("features", {"example_id": 1}, r"the key \(example_id\) occurs twice"),
]


@pytest.mark.parametrize(("table", "changes", "message"), BROKEN)
def test_each_rule_has_its_message_and_writes_nothing(spark, store, table, changes, message):
    before = store.ledger.head(table)
    with pytest.raises(ValidationError, match=f"{table}: {message}.*nothing was written"):
        commit(spark, store, rows_of(store, table, **changes), [DAY_1], table)
    assert store.ledger.head(table) == before


def test_the_same_key_may_occur_in_other_partitions_keys_and_verticals(spark, store):
    commit(spark, store, [label(store, DAY_1, 1), label(store, DAY_2, 1)], [DAY_1, DAY_2])
    rows = [ROWS["features"](store, DAY_1, 1), ROWS["features"](store, DAY_1, 1, vertical="shop")]
    commit(spark, store, rows, [DAY_1], "features")


def test_vectors_of_another_space_name_both(spark, store):
    with pytest.raises(MixedSpacesError, match=r"space_id=fm-a is written, but a row has space_id=fm-b"):
        commit(spark, store, rows_of(store, "fm_outputs", space_id="fm-b"), [DAY_1], "fm_outputs")


def test_dead_vectors_are_refused_but_one_zero_vector_is_not(spark, store):
    zero = bytes(2)
    commit(spark, store, rows_of(store, "fm_outputs", z=zero), [DAY_1], "fm_outputs")
    with pytest.raises(ValidationError, match="column z is all zero in every row"):
        commit(spark, store, [output(store, DAY_1, n, z=zero) for n in range(3)], [DAY_1], "fm_outputs")


def test_an_unregistered_space_is_refused(spark, store):
    attempt = store.begin("fm_outputs", {"space_id": "fm-x"}, [DAY_1], STEP, {})
    with pytest.raises(MissingInputError, match=r"space fm-x is not registered \(known: \['fm-a'\]\)"):
        store.commit(attempt, frame(spark, store, "fm_outputs", rows_of(store, "fm_outputs", space_id="fm-x")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.withColumn("price", F.col("price").cast("double")), "column price is double, the table has float"),
        (lambda f: f.drop("price"), "column price is missing"),
        (lambda f: f.withColumn("extra", F.lit(1)), "column extra is not one of the table's"),
    ],
)
def test_schema_must_equal_the_tables(spark, store, change, message):
    rows = change(frame(spark, store, "examples", [example(store, DAY_1, 1)]))
    with pytest.raises(ValidationError, match=message):
        store.commit(store.begin("examples", {}, [DAY_1], STEP, {}), rows)


def test_list_elements_are_not_narrowed(spark, store):
    rows = frame(spark, store, "fm_outputs", [output(store, DAY_1, 1)])
    rows = rows.withColumn("logits", F.col("logits").cast("array<double>"))
    with pytest.raises(ValidationError, match="column logits is array<double>, the table has array<float>"):
        store.commit(store.begin("fm_outputs", {"space_id": "fm-a"}, [DAY_1], STEP, {}), rows)


def test_rows_that_a_join_drops_are_not_checked(spark, store):
    rows = frame(spark, store, "examples", [example(store, DAY_1, 1), example(store, DAY_1, 2, price=NAN)])
    kept = spark.createDataFrame([(1,)], "example_id long")
    attempt = store.begin("examples", {}, [DAY_1], STEP, {})
    store.commit(attempt, rows.join(kept, "example_id").select(*store.schema("examples").names))


def test_a_frame_is_computed_once(spark, store):
    runs = spark.sparkContext.accumulator(0)

    def counted(batches):
        for batch in batches:
            runs.add(batch.num_rows)
            yield batch

    rows = frame(spark, store, "labels", [label(store, DAY_1, n) for n in range(5)])
    store.commit(store.begin("labels", {}, [DAY_1], STEP, {}), rows.mapInArrow(counted, rows.schema))
    assert runs.value == 5


def test_other_failures_stay_themselves(spark, store, monkeypatch):
    def boom(*_):
        raise OSError("disk full")

    monkeypatch.setattr(commits, "_overwrite", boom)
    with pytest.raises(OSError, match="disk full"):
        commit(spark, store, [label(store, DAY_1, 1)], [DAY_1])


@pytest.mark.parametrize(("grain", "offset"), [("10m", "0s"), ("6h", "3h"), ("1d", "2h")])
def test_bounds_follow_the_grain(spark, tmp_path, grain, offset):
    store = TableStore(str(tmp_path / "tables"), make_dataset(grain=grain, day_offset=offset))
    part = store.clock.part_of(1_767_300_000_000)
    last = store.clock.end(part) - 1
    commit(spark, store, [example(store, part, 1), example(store, part, 2, event_ts=last)], [part], "examples")
    with pytest.raises(ValidationError, match="event_ts lies outside its part"):
        commit(spark, store, [example(store, part, 3, event_ts=last + 1)], [part], "examples")
