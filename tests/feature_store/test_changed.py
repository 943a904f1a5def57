"""Rows of source files that changed after an ingest, found without Spark."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from feature_store.clocks import MINUTE_MS
from feature_store.sources.changed import CLOCK_SLACK_MS, changed_rows
from tests.feature_store.shop_source import DAY, PARTS, START, row, shop, write

CHANGED = START + 40 * DAY
LATER = CHANGED + CLOCK_SLACK_MS + 1


def changed_at(path: Path, instant: int = CHANGED) -> Path:
    os.utime(path, (instant / 1000, instant / 1000))
    return path


def test_only_files_that_changed_since_tell_and_only_of_the_partitions_ingested_before(tmp_path: Path) -> None:
    old = changed_at(write(tmp_path / "old.parquet", [row(1)]), CHANGED - DAY)
    new = changed_at(write(tmp_path / "below" / "new.parquet", [row(n, day) for day in range(3) for n in range(2)]))
    changed_at(write(tmp_path / "_hidden.parquet", [row(9)]))
    (tmp_path / ".broken.parquet").write_bytes(b"no")
    dataset = shop(tmp_path)
    assert _found(changed_rows(dataset, dict.fromkeys(PARTS, LATER))) == []
    ingested = {PARTS[0]: CHANGED - MINUTE_MS, PARTS[1]: LATER}
    assert _found(changed_rows(dataset, ingested)) == [(str(new), START), (str(new), START + 1000)]
    assert str(old) not in str(_found(changed_rows(dataset, {PARTS[0]: CHANGED})))


def _found(rows: pa.Table | None) -> list[tuple[str, int]]:
    assert rows is not None
    return sorted(zip(rows["file"].to_pylist(), rows["event_ts"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("kind", "scale", "unit"),
    [(pa.int64(), 1, "ms"), (pa.int64(), 1000, "s"), (pa.float64(), 1000, "s"), (pa.timestamp("us"), 1, "timestamp")],
)
def test_instants_are_read_as_spark_reads_them(tmp_path: Path, kind: pa.DataType, scale: int, unit: str) -> None:
    times = pa.array([START // scale, (START + DAY) // scale, None])
    values = times.cast(pa.timestamp("ms")).cast(kind) if unit == "timestamp" else times.cast(kind)
    table = pa.table({"time": values, "user": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = shop(tmp_path, event_ts={"value": "time", "unit": unit}, arrived_at=None)
    rows = changed_rows(dataset, {PARTS[0]: 0})
    assert rows is not None
    assert (rows["event_ts"].to_pylist(), rows["arrived_at"].to_pylist()) == ([START], [START])


def test_times_that_are_no_instants_are_of_no_partition(tmp_path: Path) -> None:
    times = [START / 1000, math.nan, math.inf, -math.inf, -1.0, 1e300]
    pq.write_table(pa.table({"time": times, "user": range(6)}), tmp_path / "a.parquet")
    dataset = shop(tmp_path, event_ts={"value": "time", "unit": "s"}, arrived_at=None)
    assert _found(changed_rows(dataset, {PARTS[0]: 0, "1970-01-01": 0})) == [(str(tmp_path / "a.parquet"), START)]


@pytest.mark.parametrize("options", [{}, {"header": "true"}])
def test_a_csv_file_tells_too(tmp_path: Path, options: dict[str, str]) -> None:
    pacsv.write_csv(pa.Table.from_pylist([row(1), row(2, 1)]), tmp_path / "a.csv")
    dataset = shop(tmp_path, source={"read": {"format": "csv", "paths": [f"{tmp_path}/*.csv"], "options": options}})
    assert _found(changed_rows(dataset, {PARTS[1]: 0})) == [(str(tmp_path / "a.csv"), START + DAY + 2000)]


@pytest.mark.parametrize(
    "changes",
    [
        {"source": {"where": "price > 1"}},
        {"source": {"read": {"format": "csv", "paths": ["a.csv"], "options": {"header": "true", "sep": ";"}}}},
        {"event_ts": {"value": "time + 1", "unit": "ms"}},
        {"event_ts": {"value": "category", "unit": "iso"}},
        {"arrived_at": {"value": "nowhere", "unit": "ms"}},
    ],
)
def test_where_only_spark_can_tell_there_is_no_answer(tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path / "a.parquet", [row(1)])
    assert changed_rows(shop(tmp_path, **changes), {PARTS[0]: 0}) is None


def test_a_broken_file_gives_no_answer(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no")
    assert changed_rows(shop(tmp_path), {PARTS[0]: 0}) is None
