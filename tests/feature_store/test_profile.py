"""What ``loopfm check`` says about a source."""

from __future__ import annotations

import pyarrow as pa
import pytest

from feature_store.errors import BadDataError
from feature_store.profile import profile
from tests.feature_store.shop_source import PARTS, SCHEMA, START, row, shop, write


def test_a_profile_counts_what_an_ingest_would_do(spark, tmp_path):
    rows = [row(n, n % 3) for n in range(30)]
    rows += [
        row(40, user=None),
        row(41, time=None),
        row(3),
        row(3),
        row(42, arrived=START + 2 * 86_400_000),
        row(43, price=None),
    ]
    write(tmp_path / "a.parquet", rows)
    (tmp_path / "b.parquet").write_bytes(b"broken")
    found = profile(spark, shop(tmp_path, labels={"click": {"value": "click", "delay": "30m"}}))
    assert (found.accepted, found.duplicates, found.files) == (32, 2, 2)
    assert found.reasons == {"null user": 1, "null event_ts": 1, "duplicate": 2}
    assert found.parts == (PARTS[0], PARTS[2])
    assert found.late == 1
    columns = {c.name: c for c in found.columns}
    assert (columns["user"].distinct, columns["price"].nulls, columns["price"].high) == (7, 1, 9.0)
    labels = {p.vertical: p for p in found.labels}
    kept = [*rows[:30], *rows[-2:]]
    assert labels["cheap"].rows < labels["all"].rows == len(kept) == 32, "a duplicate is labelled once"
    assert labels["all"].positives == sum(r["click"] for r in kept)
    text = str(found)
    for expected in (
        "shop: 32 good rows in 2 files",
        "partitions 2026-01-01 .. 2026-01-03",
        "null user",
        "unreadable file",
        "b.parquet",
        "4 rows (11.111%; allowed 100.0%)",
        "distinct and range are also of 2 duplicates and corrected rows\n",
        f"all       click  32    {labels['all'].positives}         {labels['all'].rate:.4f}  119 min",
    ):
        assert expected in text


def test_a_profile_of_an_empty_source_is_valid(spark, tmp_path):
    found = profile(spark, shop(write(tmp_path / "a.parquet", [])))
    assert (found.accepted, found.parts, found.rejected) == (0, None, 0)
    assert "0 good rows" in str(found)
    assert "duplicates" not in str(found)


def test_a_profile_stops_at_ids_whose_type_changes(spark, tmp_path):
    write(tmp_path / "a.parquet", [row(1)])
    write(tmp_path / "b.parquet", [row(2, user="two")], SCHEMA.set(0, pa.field("user", pa.string())))
    with pytest.raises(BadDataError, match=r"b\.parquet: column user has another type: expected bigint, got string"):
        profile(spark, shop(tmp_path))


def test_a_profile_warns_of_folders_whose_names_make_two_kinds_of_ids(spark, tmp_path):
    for store in ("1", "2", "north"):
        write(tmp_path / f"store={store}" / "a.parquet", [row(1)])
    found = profile(spark, shop(tmp_path, entities={"user": "user", "item": "store"}))
    assert found.warnings == [
        "folders store=...: some hold numbers, as 1, and some do not, as north: all are read as text, "
        "which makes other ids than numbers do; name its type in source.expected_columns"
    ]
