"""Rows that reached the source after their partition was first ingested."""

from __future__ import annotations

from collections import Counter

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from feature_store.config import DatasetConfig
from feature_store.ingest import skipping_broken_files
from feature_store.sources.expressions import lenient, part_column
from feature_store.sources.pipeline import judged_rows
from feature_store.sources.span import Span


def late_rows(spark: SparkSession, dataset: DatasetConfig, parts: list[str], arrived: tuple[int, int]) -> Counter[str]:
    """Good examples of each of ``parts`` (contiguous) that arrived in [start, end), epoch ms; sampled negatives count.

    Raises:
        BadDataError: the source cannot be read.
    """
    clock = dataset.clock
    span = Span(clock.start(parts[0]), clock.end(parts[-1]))

    def count(skip: frozenset[str]) -> Counter[str]:
        rows = judged_rows(spark, dataset, span, skip=skip).rows
        if rows is None:
            return Counter()
        late = rows.where(F.col("reason").isNull()).where(F.col("arrived_at").between(arrived[0], arrived[1] - 1))
        by_part = late.groupBy(part_column(clock, F.col("event_ts")).alias("part"))
        return Counter({row[0]: row[1] for row in by_part.agg(F.countDistinct("example_id")).collect()})

    with lenient(spark):
        return skipping_broken_files(spark, dataset, count)
