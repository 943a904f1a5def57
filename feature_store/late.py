"""Rows that reached the source after their partition was first ingested."""

from __future__ import annotations

from collections import Counter

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from feature_store.config import DatasetConfig
from feature_store.ingest import skipping_broken_files
from feature_store.repeats import content_of, set_repeats_aside
from feature_store.sources.expressions import lenient, part_column
from feature_store.sources.pipeline import judged_rows
from feature_store.sources.reader import FILE_COLUMN
from feature_store.sources.span import Span


def late_rows(spark: SparkSession, dataset: DatasetConfig, parts: list[str], arrived: tuple[int, int]) -> Counter[str]:
    """Examples of each of ``parts`` (ascending) that arrived in [start, end), epoch ms, as an ingest would keep them.

    Sampled negatives count.

    Raises:
        BadDataError: the source cannot be read.
    """
    clock = dataset.clock
    span = Span(clock.start(parts[0]), clock.end(parts[-1]))

    def count(skip: frozenset[str]) -> Counter[str]:
        rows = judged_rows(spark, dataset, span, skip=skip).rows
        if rows is None:
            return Counter()
        told = rows.select(
            "example_id", "event_ts", "arrived_at", FILE_COLUMN, "reason", content_of(rows).alias("told")
        )
        kept = set_repeats_aside(told.where("reason is null"), F.col("told")).where("reason is null")
        late = kept.where(F.col("arrived_at").between(arrived[0], arrived[1] - 1))
        by_part = late.groupBy(part_column(clock, F.col("event_ts")).alias("part"))
        return Counter({row[0]: row[1] for row in by_part.count().collect()})

    with lenient(spark):
        return skipping_broken_files(spark, dataset, count)
