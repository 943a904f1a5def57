"""What as-of frames and partial sums share on Spark's side: the clock of a plan, its reach, the shuffle."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession

from feature_store.asof_chunk import AsOfClock
from feature_store.asof_plan import Plan
from feature_store.config import DatasetConfig


def as_of_clock(dataset: DatasetConfig, plan: Plan) -> AsOfClock:
    """The clock of a plan."""
    return AsOfClock(plan.clock, dataset.clock, dataset.lag)


def shuffled(spark: SparkSession, rows: DataFrame, route: str) -> DataFrame:
    """Rows of one route together in one partition, next to each other."""
    count = max(int(spark.conf.get("spark.sql.shuffle.partitions") or 1), spark.sparkContext.defaultParallelism)
    return rows.repartition(count, route).sortWithinPartitions(route)
