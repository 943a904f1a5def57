from __future__ import annotations

import time

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_store.errors import MissingInputError, ValidationError
from feature_store.tables import TableStore
from tests.conftest import TINY, make_dataset
from tests.feature_store.store_world import DAY_1, DAY_2, DAY_3, SPACE, STEP, commit, example, ids, label, segment


@pytest.fixture
def store(tmp_path):
    return TableStore(str(tmp_path / "tables"), make_dataset())


def test_pinned_reads_see_their_version(spark, store):
    first = commit(spark, store, [label(store, DAY_1, 1), label(store, DAY_2, 2)], [DAY_1, DAY_2])
    commit(spark, store, [label(store, DAY_1, 9)], [DAY_1])
    for parts, expected in [([DAY_1, DAY_2], [1, 2]), ([DAY_2], [2]), ([DAY_3], []), ([], []), (None, [1, 2])]:
        frame = store.read(spark, "labels", first, {}, parts)
        assert frame.columns == store.schema("labels").names
        assert sorted(row.example_id for row in frame.collect()) == expected
        assert ids(store, first, parts) == expected


def test_version_zero_is_a_version(spark, store):
    version = commit(spark, store, [label(store, DAY_1, 1)], [DAY_1])
    assert store.read(spark, "labels", 0, {}, None).count() == 0
    assert store.arrow("labels", 0, {}, None).num_rows == 0
    assert store.files("labels", 0, {}, None) == []
    assert store.arrow("labels", version, {}, None).num_rows == 1


def test_partition_columns_and_types_come_back(spark, store):
    from feature_store.spaces import SpaceRegistry

    SpaceRegistry(store).add(SPACE)
    version = commit(
        spark, store, [segment(store, DAY_1, 1), segment(store, DAY_1, 2, key="user_category")], [DAY_1], "segments"
    )
    table = store.arrow("segments", version, {"space_id": "fm-a", "key": "user"}, [DAY_1])
    assert table.schema == store.schema("segments")
    assert table.to_pylist() == [segment(store, DAY_1, 1)]
    some = store.arrow("segments", version, {"space_id": "fm-a"}, [DAY_1], ["key", "key_id"])
    assert some.to_pydict() == {"key": ["user", "user_category"], "key_id": [1, 2]}
    (file,) = store.files("segments", version, {"key": "user"}, None)
    assert file.partition == {"space_id": "fm-a", "key": "user", "part": DAY_1}
    assert (file.rows, file.size > 0) == (1, True)
    assert store.files("segments", version, {"space_id": "other"}, None) == []


def test_pin_names_what_is_missing_and_the_command(spark, store):
    commit(spark, store, [], [DAY_1])
    store.begin("labels", {}, [DAY_2], STEP, {})
    with pytest.raises(MissingInputError) as caught:
        store.pin("labels", {}, [DAY_1, DAY_2, DAY_3])
    assert str(caught.value) == (
        "labels: 2 of the partitions needed are not done: 2026-01-02 (running), 2026-01-03 (missing); "
        "`loopfm ingest --from 2026-01-02 --to 2026-01-03` makes them"
    )
    assert store.pin("labels", {}, [DAY_1, DAY_2], allow_missing=True) == 1
    assert store.pin("segments", {"space_id": "raw"}, [DAY_1], allow_missing=True) is None
    with pytest.raises(MissingInputError, match=r"segments space_id=raw.*loopfm segments"):
        store.pin("segments", {"space_id": "raw"}, [DAY_1])
    with pytest.raises(MissingInputError, match=r"features was never written.*loopfm features"):
        store.arrow("features", 0, {}, None)


def test_append_needs_no_spark(store):
    schema = store.schema("evaluations")
    row = dict.fromkeys(schema.names) | {"vertical": "feed", "metric": "ne", "value": 0.9}
    for _ in range(2):
        store.append_arrow("evaluations", pa.Table.from_pylist([row], schema=schema))
    assert store.arrow("evaluations", store.newest("evaluations"), {}, None).to_pylist() == [row, row]
    with pytest.raises(ValidationError, match="evaluations: got columns"):
        store.append_arrow("evaluations", pa.table({"vertical": ["feed"]}))


def test_thousands_of_files_are_listed_and_read_fast(tmp_path):
    store = TableStore(str(tmp_path), make_dataset(grain="10m"))
    parts = store.clock.between("2026-01-01T0000", "2026-01-14T2350")
    rows = [label(store, part, n) for n, part in enumerate(parts)]
    table = pa.Table.from_pylist(rows, schema=store.schema("labels"))
    write_deltalake(store.uri("labels"), table, partition_by=["part"])
    start = time.process_time()
    files = store.files("labels", 0, {}, parts[5:])
    assert time.process_time() - start < 1
    assert [file.partition["part"] for file in files] == parts[5:]
    start = time.process_time()
    assert store.arrow("labels", 0, {}, parts, ["part", "example_id"]).num_rows == len(parts) == 2016
    assert time.process_time() - start < 5


def test_a_path_may_hold_spaces(spark, tmp_path):
    store = TableStore(str(tmp_path / "a folder"), make_dataset())
    version = commit(spark, store, [label(store, DAY_1, 1)], [DAY_1])
    assert ids(store, version) == [1]
    assert DeltaTable(store.uri("labels")).version() == version


def test_object_store_roots_keep_their_scheme():
    store = TableStore("s3a://bucket/home/tiny/tables/", make_dataset())
    assert store.path("labels") == "s3a://bucket/home/tiny/tables/labels"
    assert store.uri("labels") == "s3://bucket/home/tiny/tables/labels"


def changed_store(store, **changes):
    """The same tables as a process has them whose YAML file declares other features."""
    return TableStore(store.root, make_dataset(features=TINY["features"] | changes))


def test_a_newly_declared_column_is_added_by_the_commit(spark, store):
    first = commit(spark, store, [example(store, DAY_1, 1), example(store, DAY_2, 2)], [DAY_1, DAY_2], "examples")
    wider = changed_store(store, tags={"value": "tags", "kind": "categorical_list"})
    assert wider.read(spark, "examples", first, {}, [DAY_1]).first().tags is None
    version = commit(spark, wider, [example(wider, DAY_2, 2, tags=[4, 5])], [DAY_2], "examples")
    for made in (
        wider.read(spark, "examples", version, {}, None).toArrow(),
        wider.arrow("examples", version, {}, None),
    ):
        assert made.schema.names == wider.schema("examples").names
        assert dict(zip(made["part"].to_pylist(), made["tags"].to_pylist(), strict=True)) == {
            DAY_1: None,
            DAY_2: [4, 5],
        }
    again = commit(spark, store, [example(store, DAY_1, 3)], [DAY_1], "examples")
    assert store.read(spark, "examples", again, {}, None).columns == store.schema("examples").names
    assert wider.arrow("examples", again, {}, None, ["example_id", "tags"]).to_pylist() == [
        {"example_id": 3, "tags": None},
        {"example_id": 2, "tags": [4, 5]},
    ]


def test_a_failed_commit_adds_no_column(spark, store):
    commit(spark, store, [example(store, DAY_1, 1)], [DAY_1], "examples")
    wider = changed_store(store, stock={"value": "stock", "kind": "numeric"})
    with pytest.raises(ValidationError, match="column user is null"):
        commit(spark, wider, [example(wider, DAY_2, 2, user=None, stock=1.0)], [DAY_2], "examples")
    assert [field.name for field in DeltaTable(store.uri("examples")).schema().fields] == store.schema("examples").names


def test_a_changed_type_names_column_and_both_types_and_writes_nothing(spark, store):
    first = changed_store(store, tags={"value": "tags", "kind": "categorical_list"})
    version = commit(spark, first, [example(first, DAY_1, 1, tags=[1])], [DAY_1], "examples")
    other = changed_store(
        store, tags={"value": "tags", "kind": "numeric_list"}, price={"value": "price", "kind": "categorical"}
    )
    with pytest.raises(ValidationError) as caught:
        commit(spark, other, [example(other, DAY_2, 2, tags=[1.0], price=2)], [DAY_2], "examples")
    assert str(caught.value) == (
        "examples: column price is declared int64, the table holds float; column tags is declared list<item: float>, "
        "the table holds list<element: int64>; nothing was written: a column keeps its type, so give what has another "
        "type a new name in the YAML file"
    )
    assert store.newest("examples") == version
