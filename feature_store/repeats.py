"""Rows that tell one example more than once: which of them is kept, and why each other one is set aside.

A source corrects a row by sending it again with other values. What counts is what was told last, and it counts from
its own arrival on: no reader of an earlier instant sees a correction. Sent again unchanged, a row keeps the arrival at
which its values were first told.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from feature_store.sources.mapping import SOURCE_COLUMN
from feature_store.sources.reader import FILE_COLUMN

DUPLICATE = "duplicate"
CORRECTED = "corrected by a later row"

_WHEN = ("arrived_at", "part", "reason", FILE_COLUMN, SOURCE_COLUMN)


def repeated_ids(good: DataFrame) -> DataFrame:
    """Ids that more than one row has."""
    return good.groupBy("example_id").count().where("count > 1").select("example_id")


def content_of(rows: DataFrame) -> Column:
    """Hash of what mapped rows tell, as against when they arrived, when their labels are known and where they lie."""
    return F.xxhash64(*(name for name in rows.columns if name not in _WHEN and not name.startswith("known_")))


def set_repeats_aside(good: DataFrame, content: Column) -> DataFrame:
    """Good rows, all but one of each id with the reason why it is not kept.

    Kept is the content that arrived last (of several at one instant the smallest by hash), in the first of the
    neighbouring rows that tell it: ``reason`` stays null. A row that told something else before is corrected; any
    other one is a duplicate.

    Args:
        good: mapped rows without a fault.
        content: see ``content_of``.
    """
    same = Window.partitionBy("example_id")
    told = same.orderBy("arrived_at", F.desc("_content"), FILE_COLUMN)
    newest = same.orderBy(F.desc("_begins"), F.desc("arrived_at"), "_content", FILE_COLUMN)
    begins = F.coalesce(F.lag("_content").over(told) != F.col("_content"), F.lit(True))
    other = F.first("_content").over(newest) != F.col("_content")
    earlier = F.first("arrived_at").over(newest) > F.col("arrived_at")
    reason = F.when(F.col("_begins") & other & earlier, CORRECTED).otherwise(DUPLICATE)
    found = good.withColumn("_content", content).withColumn("_begins", begins)
    found = found.withColumn("reason", F.when(F.row_number().over(newest) > 1, reason))
    return found.drop("_content", "_begins")
