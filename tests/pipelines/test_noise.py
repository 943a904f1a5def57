"""A source whose future is noise: nothing known before it differs, and a leak of sampled negatives shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from feature_store.config import DatasetConfig
from feature_store.ingest import ingest_frames
from feature_store.sources import negatives
from pipelines.noise import noised_dataset
from tests.feature_store.shop_source import START, row, shop, write
from tests.feature_store.test_negatives import HOUR, PARTS, click_shop, clicks, ingested

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

INSTANT = START + 2 * HOUR + HOUR // 2


def seen(spark: SparkSession, dataset: DatasetConfig) -> set[str]:
    return {repr(e) for e in ingested(spark, dataset, PARTS) if e["event_ts"] <= INSTANT}


def test_sampled_negatives_do_not_change_with_the_future_and_a_leak_shows(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = click_shop(write(tmp_path / "c.parquet", clicks(1)))
    noisy = noised_dataset(spark, honest, INSTANT, str(tmp_path / "noised"), arrivals=True)
    before = seen(spark, honest)
    assert len(before) > 500
    assert seen(spark, noisy) == before

    counted = negatives._count_items

    def ahead(*given: Any) -> negatives.ItemCounts:
        counts = counted(*given)
        return negatives.ItemCounts(counts.bucket - HOUR, counts.code, counts.rows, counts.items)

    monkeypatch.setattr(negatives, "_count_items", ahead)
    assert seen(spark, noisy) != seen(spark, honest)


def test_labels_flip_and_rows_change_only_where_they_become_known_later(spark: SparkSession, tmp_path: Path) -> None:
    rows = [row(i, time=START + i * 60_000, arrived=START + i * 60_000 + (i % 10 == 0) * 4 * HOUR) for i in range(240)]
    honest = shop(write(tmp_path / "s.parquet", rows))
    tables = {}
    for arrivals in (True, False):
        noisy = noised_dataset(spark, honest, INSTANT, str(tmp_path / f"noised{arrivals}"), arrivals=arrivals)
        tables[arrivals] = known(spark, noisy)
    before, after, later = known(spark, honest), tables[True], tables[False]
    first = {i for i, (event, arrived, *_) in before.items() if max(event, arrived) <= INSTANT}
    late = {i for i, (event, arrived, *_) in before.items() if event <= INSTANT < arrived}
    assert {i: before[i] for i in first if before[i][3] <= INSTANT} == {
        i: after[i] for i in first if before[i][3] <= INSTANT
    }
    assert {after[i][2] - before[i][2] for i in first if before[i][3] > INSTANT} == {-1, 1}
    assert len(late) == 16 > len(late & set(after))
    assert late <= set(later), "rows that happened before the instant are kept, whenever they arrived"
    assert len(after) < len(before), "some later rows are left out"


def known(spark: SparkSession, dataset: DatasetConfig) -> dict[int, tuple[int, int, int, int]]:
    frames = ingest_frames(spark, dataset, ["2026-01-01"])
    try:
        labels = frames.labels.where("vertical = 'all'").drop("part", "vertical")
        joined = frames.examples.join(labels, "example_id").collect()
        return {r["example_id"]: (r["event_ts"], r["arrived_at"], r["label"], r["label_available_at"]) for r in joined}
    finally:
        frames.release()
