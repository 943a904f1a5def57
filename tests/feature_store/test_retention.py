from __future__ import annotations

from dataclasses import replace

import pytest
from deltalake import DeltaTable

from feature_store.errors import ContractError, MissingInputError, SupersededError
from feature_store.retention import compact, expire, merge_log, vacuum
from feature_store.spaces import SpaceRegistry
from feature_store.tables import TableStore
from tests.conftest import make_dataset
from tests.feature_store.store_world import DAY_1, DAY_2, DAY_3, SPACE, STEP, age, commit, frame, ids, label


@pytest.fixture
def store(tmp_path):
    return TableStore(str(tmp_path / "tables"), make_dataset())


def rewritten(spark, store, hours):
    """Versions of one partition, each overwriting the one before, committed so many ``hours`` ago."""
    versions = [commit(spark, store, [label(store, DAY_1, n)], [DAY_1]) for n in range(len(hours))]
    for version, old in zip(versions, hours, strict=True):
        age(store, "labels", version, old)
    return versions


def test_vacuum_never_passes_the_oldest_pinned_version(spark, store):
    first, second, third, fourth = rewritten(spark, store, [400, 350, 300, 100])
    assert len(vacuum(store, "labels", [third], dry_run=True)) == 1
    assert ids(store, first) == [0]
    vacuum(store, "labels", [third, fourth])
    assert [ids(store, version) for version in (second, third, fourth)] == [[1], [2], [3]]
    with pytest.raises(FileNotFoundError):
        ids(store, first)
    assert store.pin("labels", {}, [DAY_1]) == fourth


def test_vacuum_keeps_what_running_readers_hold(spark, store):
    versions = rewritten(spark, store, [300, 100, 50])
    assert vacuum(store, "labels", []) == []
    assert [ids(store, version) for version in versions] == [[0], [1], [2]]


def test_version_zero_can_be_pinned(spark, store):
    rewritten(spark, store, [400, 350, 300])
    age(store, "labels", 0, 500)
    assert vacuum(store, "labels", [0]) == []


def test_a_pin_older_than_the_log_is_refused(spark, store):
    (version,) = rewritten(spark, store, [366 * 24])
    with pytest.raises(ContractError, match=f"version {version} is pinned and older than 365 days"):
        vacuum(store, "labels", [version])
    with pytest.raises(MissingInputError, match="version 77 is pinned"):
        vacuum(store, "labels", [77])


def test_compaction_changes_files_but_no_rows(spark, store):
    rows = frame(spark, store, "labels", [label(store, DAY_1, n) for n in range(6)])
    commit(spark, store, [label(store, DAY_2, 9)], [DAY_2])
    attempt = store.begin("labels", {}, [DAY_1], STEP, {})
    writer = rows.repartition(3).write.format("delta").mode("overwrite").option("userMetadata", attempt.metadata())
    writer.option("replaceWhere", attempt.predicate).save(store.path("labels"))
    before = store.pin("labels", {}, [DAY_1])
    assert len(store.files("labels", before, {}, [DAY_1])) > 1
    coverage = store.ledger.coverage("labels", {})
    assert compact(store, "labels", {}, [DAY_1]) > 1
    after = store.pin("labels", {}, [DAY_1])
    assert after == before + 1
    assert len(store.files("labels", after, {}, [DAY_1])) == 1
    assert ids(store, after, [DAY_1]) == ids(store, before, [DAY_1]) == list(range(6))
    assert store.read(spark, "labels", after, {}, [DAY_1]).count() == 6
    assert store.ledger.coverage("labels", {}) == coverage
    assert TableStore(store.root, make_dataset()).pin("labels", {}, [DAY_1]) == after
    with pytest.raises(MissingInputError):
        compact(store, "labels", {}, [DAY_3])


def test_expired_partitions_are_gone_and_known_to_be(spark, store):
    parts = [DAY_1, DAY_2, DAY_3]
    commit(spark, store, [label(store, part, n) for n, part in enumerate(parts)], parts)
    version = expire(store, "labels", {}, DAY_3, STEP)
    assert version is not None
    assert ids(store, version) == [2]
    assert [entry.state for entry in store.ledger.coverage("labels", {}).values()] == ["expired", "expired", "done"]
    assert store.pin("labels", {}, [DAY_3]) == version
    with pytest.raises(MissingInputError, match=r"2026-01-02 \(expired\)"):
        store.pin("labels", {}, [DAY_2, DAY_3])
    assert expire(store, "labels", {}, DAY_3, STEP) is None
    log = DeltaTable(store.uri("ledger"))
    log.delete()
    rebuilt = TableStore(store.root, make_dataset())
    rebuilt.ledger.reconcile("labels")
    assert [entry.state for entry in rebuilt.ledger.coverage("labels", {}).values()] == ["expired", "expired", "done"]
    commit(spark, store, [label(store, DAY_2, 5)], [DAY_2])
    assert store.ledger.coverage("labels", {})[DAY_2].done


def test_a_ghost_of_an_expired_partition_cannot_bring_it_back(spark, store):
    commit(spark, store, [label(store, DAY_1, 1)], [DAY_1])
    ghost = store.begin("labels", {}, [DAY_2], STEP, {})
    commit(spark, store, [label(store, DAY_2, 1)], [DAY_2])
    expire(store, "labels", {}, DAY_3, STEP)
    with pytest.raises(SupersededError, match="expired"):
        store.commit(ghost, frame(spark, store, "labels", [label(store, DAY_2, 7)]))


def test_the_files_of_a_log_are_merged_and_those_merged_long_ago_removed(tmp_path):
    store = TableStore(str(tmp_path), make_dataset())
    for number in range(3):
        SpaceRegistry(store).add(replace(SPACE, space_id=f"fm-{number}"))
    assert merge_log(store, "spaces") == 3
    assert len(store.files("spaces", store.newest("spaces"), {}, None)) == 1
    assert [space.space_id for space in SpaceRegistry(store).all()] == ["fm-0", "fm-1", "fm-2"]
    assert len(list(tmp_path.glob("spaces/*.parquet"))) == 4, "running readers may hold them"
    for version in range(store.newest("spaces") + 1):
        age(store, "spaces", version, 8 * 24)
    merge_log(store, "spaces")
    assert len(list(tmp_path.glob("spaces/*.parquet"))) == 1
