"""Errors name where they were, the counts and what to do, and the ledger knows a source that could not be read."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from feature_store.errors import BadDataError, ContractError
from pipelines.cli import main
from pipelines.context import RunContext
from pipelines.errors import FullDiskError, LostProcessError
from pipelines.failures import annotate, explained, killed, known_error, text_of
from pipelines.ingest import EXAMPLES, LABELS, attempted_check, ingest
from pipelines.step import attempted, begin
from tests.pipelines import loop_world

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DONE, PART = "2026-01-01", "2026-01-02"


def states(context: RunContext, part: str = PART) -> dict[str, tuple[str, str]]:
    """Table -> state and message of the partition."""
    tables = (step.table for step in (LABELS, EXAMPLES))
    entries = {table: context.store.ledger.coverage(table, {}).get(part) for table in tables}
    return {table: (entry.state, entry.message) for table, entry in entries.items() if entry is not None}


@pytest.fixture(scope="module")
def ingested(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's root with one day of a small world in its tables."""
    root = tmp_path_factory.mktemp("ingested")
    world = loop_world.WORLD | {"rows_per_day": 500, "bad_share": 0.03}
    ingest(loop_world.context(root, source={"world": world}), [DONE])
    return root


def absent_source(root: Path) -> RunContext:
    return loop_world.context(root, source={"read": {"format": "parquet", "paths": [f"{root}/absent/*.parquet"]}})


def test_a_source_that_cannot_be_read_is_a_failed_attempt(spark: SparkSession, tmp_path: Path) -> None:
    context = absent_source(tmp_path)
    with pytest.raises(ContractError, match="nothing at") as found:
        ingest(context, [PART])
    assert set(states(context)) == {"examples", "labels"}
    for state, message in states(context).values():
        assert state == "failed"
        assert message.startswith("ContractError: source path")
    where, counted, advice = found.value.__notes__
    assert where == f"partitions: {PART} (run cli)"
    assert counted == "counts: examples: 0 of 1 partitions are done, no other was written yet"
    assert advice.startswith("what to do: ")


def test_counts_are_those_of_the_partitions_that_are_done(ingested: Path) -> None:
    with pytest.raises(ContractError) as found:
        ingest(absent_source(ingested), [PART])
    done = loop_world.context(ingested).store.ledger.coverage("examples", {})[DONE]
    counted = f"the newest other one, {DONE}, has {done.rows:,} rows and {done.rejected:,} rejected"
    assert counted in found.value.__notes__[1]
    assert done.rejected


@pytest.mark.parametrize(("record", "wanted"), [(True, {"examples", "labels"}), (False, set())])
def test_a_check_records_only_when_asked(tmp_path: Path, record: bool, wanted: set[str]) -> None:
    context = absent_source(tmp_path)
    with pytest.raises(BadDataError), attempted_check(context, [PART], record):
        raise BadDataError("a column changed")
    assert set(states(context)) == wanted


def test_a_check_leaves_done_partitions_done(ingested: Path) -> None:
    context = loop_world.context(ingested)
    with pytest.raises(BadDataError), attempted_check(context, [DONE], True):
        raise BadDataError("a column changed")
    assert {state for state, _ in states(context, DONE).values()} == {"done"}


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("java.io.IOException: No space left on device")],
)
def test_a_full_disk_is_a_typed_error_that_keeps_the_original(tmp_path: Path, error: Exception) -> None:
    context = loop_world.context(tmp_path)
    step = explained(context, "infer", [PART], "fm_outputs", {"space_id": "fm-1"}, {})
    with pytest.raises(FullDiskError, match=f"infer of {PART}: no space is left") as found, step:
        raise error
    assert found.value.__cause__ is error
    assert known_error(found.value, "infer", []) is found.value
    assert "free space there" in text_of(found.value).splitlines()[-1]


def test_the_advice_stays_last_where_the_full_disk_holds_the_ledger_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = loop_world.context(tmp_path)
    attempt = begin(context, EXAMPLES, {}, [PART], {})
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: object) -> None:
        raise full

    monkeypatch.setattr(context.store, "fail", fail)
    with pytest.raises(FullDiskError) as found, attempted(context, attempt):
        raise full
    assert "the ledger could not be told" in text_of(found.value)
    assert "free space there" in text_of(found.value).splitlines()[-1]


def test_other_errors_stay_as_they_are_and_are_annotated_once() -> None:
    error = ValueError("a bug")
    assert known_error(error, "infer", [PART]) is error
    annotate(error, [PART], "inner")
    annotate(error, ["2026-01-03"], "outer")
    assert [note.split(":")[0] for note in error.__notes__] == ["partitions", "counts", "what to do"]
    assert error.__notes__[0] == f"partitions: {PART} (run inner)"


def test_a_process_that_was_killed_is_described_from_the_ledger(tmp_path: Path) -> None:
    context = loop_world.context(tmp_path)
    begin(context, EXAMPLES, {}, [PART, "2026-01-03"], {})
    error = killed(context, "its process was ended by signal 9 (SIGKILL)", [PART, "2026-01-03"], "[ 3.1 s] ingest ...")
    assert isinstance(error, LostProcessError)
    text = text_of(error)
    assert "signal 9 (SIGKILL); the last that it said: [ 3.1 s] ingest ..." in text
    assert f"partitions: {PART} .. 2026-01-03 (2)" in text
    assert f"counts: examples {PART} .. 2026-01-03 was begun; examples: 0 partitions done, 0 rows" in text
    assert "what to do: Airflow starts the task again" in text


def test_the_command_line_ends_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", str(tmp_path / "absent.yaml"), "--from", PART]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-4].startswith("loopfm infer: ConfigError: ")
    assert lines[-3:-1] == [f"partitions: {PART} (run cli)", "counts: nothing was written"]
    assert lines[-1].startswith("what to do: correct the setting")
