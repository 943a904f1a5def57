from __future__ import annotations

import multiprocessing
import time
from dataclasses import replace

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_store import ledger as ledger_module
from feature_store.commits import Attempt, StepInfo
from feature_store.ledger import DONE, FAILED, RUNNING, Ledger
from feature_store.store_files import Location
from feature_store.tables import TableStore
from tests.conftest import make_dataset
from tests.feature_store.store_world import DAY_1, DAY_2, DAY_3, STEP, commit, label

SPACE = {"space_id": "fm-a"}


def attempt(number=1, parts=(DAY_1,), scope=None, token="a", table="labels"):
    return Attempt(table, scope or {}, list(parts), number, token, STEP, {"examples": 7}, 0)


def done(event, version, rows=5):
    return [replace(entry, state=DONE, version_written=version, rows=rows) for entry in event.entries(DONE)]


@pytest.fixture
def ledger(tmp_path):
    return Ledger(Location(str(tmp_path)))


def test_an_empty_ledger_answers(ledger):
    assert ledger.coverage("labels", {}) == {}
    assert ledger.last_attempt("labels", {}, [DAY_1]) is None
    assert ledger.head("labels") is None
    assert ledger.entries().num_rows == 0


def test_the_latest_row_of_the_latest_attempt_wins(ledger):
    def state():
        return ledger.coverage("labels", {})[DAY_1].state

    ledger.append(attempt(1).entries(RUNNING))
    assert state() == RUNNING
    ledger.append(done(attempt(1), 3))
    assert state() == DONE
    ledger.append(attempt(2).entries(RUNNING))
    assert state() == RUNNING
    ledger.append(attempt(2).entries(FAILED, "bad rows"))
    assert (state(), ledger.coverage("labels", {})[DAY_1].message) == (FAILED, "bad rows")
    ledger.append(attempt(1).entries(FAILED))
    assert ledger.coverage("labels", {})[DAY_1].attempt == 2


def test_the_first_commit_of_a_partition_is_known_whatever_came_after_it(ledger):
    ledger.append(done(attempt(2, token="b"), 6))
    ledger.append(done(attempt(1, parts=[DAY_1, DAY_2]), 3))
    ledger.append(attempt(3, parts=[DAY_2, DAY_3]).entries(RUNNING))
    ledger.append(done(attempt(1, scope=SPACE), 0))
    assert ledger.first_written("labels", {}) == {DAY_1: 3, DAY_2: 3}
    assert ledger.first_written("labels", SPACE) == {DAY_1: 0}
    assert ledger.first_written("examples", {}) == {}


def test_a_snapshot_tells_one_state(ledger):
    ledger.append(attempt(1).entries(RUNNING))
    with ledger.snapshot():
        Ledger(ledger._location).append(done(attempt(1), 3))
        assert ledger.coverage("labels", {})[DAY_1].state == RUNNING
    assert ledger.coverage("labels", {})[DAY_1].state == DONE


def test_scopes_and_tables_are_apart(ledger):
    ledger.append(done(attempt(1, scope=SPACE), 3))
    ledger.append(done(attempt(1, parts=[DAY_2, DAY_1]), 4))
    assert list(ledger.coverage("labels", SPACE)) == [DAY_1]
    assert list(ledger.coverage("labels", {})) == [DAY_1, DAY_2]
    assert ledger.coverage("segments", SPACE) == {}
    assert ledger.scopes("labels") == [SPACE, {}]
    assert ledger.head("labels") == 4


def test_entries_keep_what_a_plan_needs(ledger):
    ledger.append(done(attempt(1, scope=SPACE), 0))
    entry = Ledger(ledger._location).coverage("labels", SPACE)[DAY_1]
    assert (entry.version_written, entry.versions_read, entry.scope) == (0, {"examples": 7}, SPACE)
    assert (entry.step, entry.step_version, entry.definition, entry.rows) == ("ingest", 1, "settings-1", 5)
    assert ledger.version_of("a") == 0


def _append_some(root, token):
    own = Ledger(Location(root))
    for number in range(5):
        own.append(attempt(number, parts=[f"{token}-{number}"], token=token).entries(RUNNING))


def test_concurrent_appenders_lose_no_row(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append_some, args=(str(tmp_path), token)) for token in ("x", "y", "z")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(Ledger(Location(str(tmp_path))).coverage("labels", {})) == 15


def test_small_files_are_merged_and_nothing_is_lost(ledger, monkeypatch):
    monkeypatch.setattr(ledger_module, "_MAX_FILES", 10)
    for number in range(15):
        ledger.append(attempt(1, parts=[f"p{number}"], token=str(number)).entries(RUNNING))
    assert len(DeltaTable(ledger._uri).file_uris()) <= 11
    assert len(ledger.coverage("labels", {})) == 15
    assert ledger.entries().num_rows == 15


def test_twenty_thousand_rows_are_read_within_a_second(ledger):
    for number in range(10):
        ledger.append(done(attempt(1, parts=[f"{number}-{i:04d}" for i in range(2_000)], token=str(number)), number))
    fresh = Ledger(ledger._location)
    start = time.process_time()
    assert len(fresh.coverage("labels", {})) == 20_000
    first = time.process_time() - start
    start = time.process_time()
    fresh.head("labels")
    again = time.process_time() - start
    assert first < 1.0
    assert again < 0.1


def test_the_ledger_is_rebuilt_from_the_log(spark, tmp_path):
    store = TableStore(str(tmp_path), make_dataset())
    commit(spark, store, [label(store, DAY_1, n) for n in range(3)], [DAY_1, DAY_2])
    commit(spark, store, [label(store, DAY_3, 1)], [DAY_3])
    commit(spark, store, [label(store, DAY_1, 1)], [DAY_1])
    before = store.ledger.coverage("labels", {})
    table = DeltaTable(store.uri("ledger"))
    table.delete("version_written = 1")  # a gap in the middle
    healed = TableStore(store.root, make_dataset())
    assert healed.ledger.reconcile("labels") == 1
    assert healed.ledger.coverage("labels", {}) == before
    table.update_incremental()
    table.delete()  # everything
    rebuilt = TableStore(store.root, make_dataset())
    assert rebuilt.ledger.coverage("labels", {}) == {}
    assert rebuilt.ledger.reconcile("labels") == 3
    assert rebuilt.ledger.coverage("labels", {}) == before
    assert rebuilt.ledger.reconcile("labels") == 0


def test_commits_of_others_are_not_in_the_ledger(spark, tmp_path):
    store = TableStore(str(tmp_path), make_dataset())
    version = commit(spark, store, [label(store, DAY_1, 1)], [DAY_1])
    foreign = pa.Table.from_pylist([label(store, DAY_1, 2)], schema=store.schema("labels"))
    write_deltalake(store.uri("labels"), foreign, mode="append")
    assert store.ledger.reconcile("labels") == 0
    assert store.pin("labels", {}, [DAY_1]) == version
    assert store.arrow("labels", version, {}, [DAY_1]).num_rows == 1


def test_a_new_attempt_counts_above_all_of_its_range(tmp_path):
    store = TableStore(str(tmp_path), make_dataset())
    step = StepInfo("ingest", 1, "d", "r", "c")
    assert store.begin("labels", {}, [DAY_1], step, {}).number == 1
    assert store.begin("labels", {}, [DAY_1], step, {}).number == 2
    assert store.begin("labels", {}, [DAY_1, DAY_2], step, {}).number == 3
    assert store.begin("labels", {}, [DAY_2], step, {}).number == 4
    assert store.begin("labels", SPACE, [DAY_2], step, {}).number == 1
