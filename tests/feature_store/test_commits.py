from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from feature_store import commits
from feature_store.commits import Pin
from feature_store.errors import ContractError, FeatureStoreError, MissingInputError, SupersededError
from feature_store.ledger import Ledger
from feature_store.tables import TableStore
from tests.conftest import make_dataset
from tests.feature_store.store_world import DAY_1, DAY_2, DAY_3, STEP, commit, example, frame, ids, label

DAYS = [DAY_1, DAY_2, DAY_3]


@pytest.fixture
def store(tmp_path):
    return TableStore(str(tmp_path / "tables"), make_dataset())


def log(store, version, table="labels"):
    path = f"{store.path(table)}/_delta_log/{version:020d}.json"
    with open(path) as stream:
        return [json.loads(line) for line in stream]


def three_days(store):
    return [label(store, part, 10 * day + n) for day, part in enumerate(DAYS) for n in range(2)]


def held(rows, gate):
    """``rows``, computed only once ``gate`` exists: a job that is under way for as long as a test needs."""

    def wait(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        (gate.parent / f"{gate.name}.started").touch()
        deadline = time.monotonic() + 120
        while not gate.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield from batches

    return rows.mapInArrow(wait, rows.schema)


def when_started(gate):
    deadline = time.monotonic() + 120
    while not (gate.parent / f"{gate.name}.started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_range_is_one_commit_with_predicate_and_ledger_entry(spark, store):
    attempt = store.begin("labels", {}, DAYS, STEP, {"examples": 4})
    version = store.commit(attempt, frame(spark, store, "labels", three_days(store)), {DAY_2: 3})
    assert version == DeltaTable(store.uri("labels")).version() == 1  # version 0 made the empty table
    info = next(action["commitInfo"] for action in log(store, 1) if "commitInfo" in action)
    assert info["operation"] == "WRITE"
    assert info["operationParameters"]["predicate"] == f"part >= '{DAY_1}' AND part <= '{DAY_3}'"
    entry = json.loads(info["userMetadata"])
    assert entry["table"] == "labels"
    assert entry["parts"] == DAYS
    assert entry["attempt"] == 1
    assert entry["versions_read"] == {"examples": 4}
    assert (entry["step"], entry["step_version"], entry["definition"]) == ("ingest", 1, "settings-1")
    assert entry["rejected"] == {DAY_2: 3}
    coverage = store.ledger.coverage("labels", {})
    assert [(e.part, e.state, e.rows, e.rejected, e.version_written) for e in coverage.values()] == [
        (DAY_1, "done", 2, 0, 1),
        (DAY_2, "done", 2, 3, 1),
        (DAY_3, "done", 2, 0, 1),
    ]


def test_files_are_few_sorted_zstd_and_without_statistics_on_lists(spark, store):
    rows = [example(store, DAY_1, number) for number in (5, 3, 9, 1)]
    version = commit(spark, store, rows, [DAY_1], "examples")
    (file,) = store.files("examples", version, {}, [DAY_1])
    assert store.arrow("examples", version, {}, [DAY_1])["example_id"].to_pylist() == [1, 3, 5, 9]
    assert file.path.endswith(".zstd.parquet")
    add = next(action["add"] for action in log(store, version, "examples") if "add" in action)
    assert set(json.loads(add["stats"])["minValues"]) == {"event_ts", "arrived_at"}
    settings = DeltaTable(store.uri("examples")).metadata().configuration
    assert settings["delta.logRetentionDuration"] == "interval 365 days"
    assert settings["delta.deletedFileRetentionDuration"] == "interval 365 days"


def test_rewriting_a_partition_leaves_its_neighbours(spark, store):
    first = commit(spark, store, three_days(store), DAYS)
    second = commit(spark, store, [label(store, DAY_2, 99)], [DAY_2])
    assert ids(store, second) == [0, 1, 20, 21, 99]
    assert ids(store, first) == [0, 1, 10, 11, 20, 21]
    assert store.ledger.coverage("labels", {})[DAY_2].attempt == 2


def test_an_empty_partition_clears_stale_rows_and_is_done(spark, store):
    commit(spark, store, three_days(store), DAYS)
    version = commit(spark, store, [], [DAY_2])
    assert ids(store, version) == [0, 1, 20, 21]
    entry = store.ledger.coverage("labels", {})[DAY_2]
    assert (entry.state, entry.rows, entry.version_written) == ("done", 0, version)
    assert store.pin("labels", {}, DAYS) == version


def test_an_empty_partition_is_committed_even_where_nothing_was(spark, store):
    version = commit(spark, store, [], [DAY_1])
    assert version == 1
    assert TableStore(store.root, make_dataset()).ledger.coverage("labels", {})[DAY_1].done


def test_a_ghost_cannot_overwrite(spark, store):
    ghost = store.begin("labels", {}, DAYS, STEP, {})
    version = commit(spark, store, [label(store, DAY_2, 1)], [DAY_2])
    with pytest.raises(SupersededError, match=r"attempt 1 .*superseded by attempt 2 .*2026-01-02; nothing was written"):
        store.commit(ghost, frame(spark, store, "labels", three_days(store)))
    assert DeltaTable(store.uri("labels")).version() == version
    store.fail(ghost, "killed")
    assert store.ledger.coverage("labels", {})[DAY_2].done


def test_newer_inputs_stop_a_commit(spark, store):
    commit(spark, store, [example(store, DAY_1, 1)], [DAY_1], "examples")
    pin = store.pin("examples", {}, [DAY_1])
    attempt = store.begin("labels", {}, [DAY_1], STEP, {"examples": pin})
    unrelated = commit(spark, store, [example(store, DAY_2, 1)], [DAY_2], "examples")
    commits.require_current(store.ledger, attempt)
    newer = commit(spark, store, [example(store, DAY_1, 2)], [DAY_1], "examples")
    with pytest.raises(SupersededError, match=rf"read examples at version {int(pin)}.*again at version {newer}"):
        store.commit(attempt, frame(spark, store, "labels", [label(store, DAY_1, 1)]))
    assert not store.ledger.coverage("labels", {})[DAY_1].done
    assert unrelated < newer


def test_pins_of_one_table_in_two_scopes_merge():
    one, two = Pin(3, (({"space_id": "a"}, frozenset("x")),)), Pin(5, (({"space_id": "b"}, frozenset("y")),))
    assert one.merged(two) == 5
    assert [scope["space_id"] for scope, _ in one.merged(two).reads] == ["a", "b"]
    assert one.merged(None) == 3


def test_parts_must_be_contiguous(store):
    with pytest.raises(ContractError, match="contiguous"):
        store.begin("labels", {}, [DAY_1, DAY_3], STEP, {})
    with pytest.raises(ContractError, match="contiguous"):
        store.begin("labels", {}, [], STEP, {})


def test_two_concurrent_commits_of_different_partitions_both_land(spark, store, tmp_path):
    commit(spark, store, [label(store, DAY_3, 3)], [DAY_3])
    gate = tmp_path / "gate"
    slow = store.begin("labels", {}, [DAY_1], STEP, {})
    with ThreadPoolExecutor() as pool:
        rows = held(frame(spark, store, "labels", [label(store, DAY_1, 1)]), gate)
        running = pool.submit(store.commit, slow, rows)
        when_started(gate)
        between = commit(spark, store, [label(store, DAY_2, 2)], [DAY_2])
        gate.touch()
        version = running.result()
    assert version == between + 1
    assert ids(store, version) == [1, 2, 3]


def test_of_two_concurrent_commits_of_one_partition_the_newer_attempt_wins(spark, store, tmp_path):
    commit(spark, store, [label(store, DAY_1, 0)], [DAY_1])
    gate = tmp_path / "gate"
    older = store.begin("labels", {}, [DAY_1], STEP, {})
    with ThreadPoolExecutor() as pool:
        running = pool.submit(store.commit, older, held(frame(spark, store, "labels", [label(store, DAY_1, 1)]), gate))
        when_started(gate)
        version = commit(spark, store, [label(store, DAY_1, 2)], [DAY_1])
        gate.touch()
        with pytest.raises(SupersededError, match=r"attempt 2 .*superseded by attempt 3"):
            running.result()
    assert ids(store, store.pin("labels", {}, [DAY_1])) == [2]
    assert DeltaTable(store.uri("labels")).version() == version


def test_the_newest_attempt_writes_again_after_a_ghost_got_in_between(spark, store, tmp_path):
    commit(spark, store, [label(store, DAY_1, 0)], [DAY_1])
    gate = tmp_path / "gate"
    ghost = store.begin("labels", {}, [DAY_1], STEP, {})
    newest = store.begin("labels", {}, [DAY_1], STEP, {})
    with ThreadPoolExecutor() as pool:
        running = pool.submit(store.commit, newest, held(frame(spark, store, "labels", [label(store, DAY_1, 2)]), gate))
        when_started(gate)
        rows = frame(spark, store, "labels", [label(store, DAY_1, 1)])
        commits._overwrite(rows, store.path("labels"), ghost.predicate, ghost.metadata())  # past its own checks
        gate.touch()
        version = running.result()
    assert ids(store, version) == [2]
    assert store.ledger.coverage("labels", {})[DAY_1].done


def test_a_ghost_that_slips_through_is_not_read(spark, store, monkeypatch):
    ghost = store.begin("labels", {}, [DAY_1], STEP, {})
    newer = commit(spark, store, [label(store, DAY_1, 2)], [DAY_1])
    monkeypatch.setattr(commits, "require_current", lambda *_: None)
    store.commit(ghost, frame(spark, store, "labels", [label(store, DAY_1, 1)]))
    entry = store.ledger.coverage("labels", {})[DAY_1]
    assert (entry.state, entry.message) == ("failed", f"attempt 1 overwrote attempt 2 at version {newer + 1}")
    with pytest.raises(MissingInputError, match="failed"):
        store.pin("labels", {}, [DAY_1])
    monkeypatch.undo()
    commit(spark, store, [label(store, DAY_1, 3)], [DAY_1])
    assert ids(store, store.pin("labels", {}, [DAY_1])) == [3]


def test_a_kill_between_commit_and_ledger_loses_nothing(spark, store, monkeypatch):
    attempt = store.begin("labels", {}, DAYS, STEP, {})

    def killed(_, entries):
        if entries:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            store.commit(attempt, frame(spark, store, "labels", three_days(store)), {DAY_1: 1})
    after = TableStore(store.root, make_dataset())
    assert {entry.state for entry in after.ledger.coverage("labels", {}).values()} == {"running"}
    assert after.pin("labels", {}, DAYS) == 1
    entry = after.ledger.coverage("labels", {})[DAY_1]
    assert (entry.state, entry.rows, entry.rejected, entry.attempt) == ("done", 2, 1, 1)
    assert entry.token == attempt.token


def test_a_killed_python_worker_names_the_setting(spark, store):
    def killed(batches):
        os.kill(os.getpid(), signal.SIGKILL)
        yield from batches

    rows = frame(spark, store, "labels", [label(store, DAY_1, 1)])
    with pytest.raises(FeatureStoreError, match=r"Python worker was killed.*LOOPFM_SPARK_MEMORY"):
        store.commit(store.begin("labels", {}, [DAY_1], STEP, {}), rows.mapInArrow(killed, rows.schema))


@pytest.mark.parametrize(
    ("message", "method"),
    [
        ("EOFException occurred while reading the port number from pyspark.daemon's stdout.", "startDaemon"),
        ("java.io.IOException: Stream closed", "stopWorker"),
    ],
)
def test_a_killed_starter_of_python_workers_says_the_same(store, message, method):
    """Killed while it starts it leaves no port to ask for workers at, later no stream to tell of idle ones."""
    attempt = store.begin("labels", {}, [DAY_1], STEP, {})
    error = RuntimeError(
        f"{message}\n\tat org.apache.spark.api.python.PythonWorkerFactory.{method}(PythonWorkerFactory)"
    )
    with pytest.raises(FeatureStoreError, match="Python worker was killed"):
        commits._raise_if_out_of_memory(attempt, error)


def test_a_python_that_is_not_there_is_no_killed_worker(store):
    attempt = store.begin("labels", {}, [DAY_1], STEP, {})
    error = RuntimeError(
        'Cannot run program "none"\n\tat org.apache.spark.api.python.PythonWorkerFactory.startDaemon()'
    )
    commits._raise_if_out_of_memory(attempt, error)


def test_attempts_that_begin_at_once_have_an_order(store):
    barrier = threading.Barrier(2)

    def start(_):
        own = TableStore(store.root, make_dataset())
        barrier.wait()
        return own.begin("labels", {}, [DAY_1], STEP, {})

    store.begin("labels", {}, [DAY_1], STEP, {})
    with ThreadPoolExecutor() as pool:
        both = sorted(pool.map(start, range(2)), key=lambda attempt: attempt.order)
    with pytest.raises(SupersededError):
        commits.require_current(store.ledger, both[0])
    commits.require_current(store.ledger, both[1])
