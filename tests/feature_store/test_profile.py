"""What ``loopfm check`` says about a source."""

from __future__ import annotations

from feature_store.profile import profile
from tests.feature_store.shop_source import PARTS, START, row, shop, write


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
        f"all       click  32    {labels['all'].positives}         {labels['all'].rate:.4f}  119 min",
    ):
        assert expected in text


def test_a_profile_of_an_empty_source_is_valid(spark, tmp_path):
    found = profile(spark, shop(write(tmp_path / "a.parquet", [])))
    assert (found.accepted, found.parts, found.rejected) == (0, None, 0)
    assert "0 good rows" in str(found)
