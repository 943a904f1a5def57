"""Hand-off to serving: every key's history as of one instant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from feature_store.config import DatasetConfig
from feature_store.histories import histories_frame
from feature_store.token_columns import space_name

if TYPE_CHECKING:
    from feature_store.spaces import SpaceRecord


def export_histories(
    dataset: DatasetConfig, space: SpaceRecord | None, segments: DataFrame, as_of_ms: int
) -> DataFrame:
    """The newest L tokens of each key that can be read at instant T: arrival_end + lag <= T.

    The rows equal what an example at T would read: same horizon, same retention, empty before the space's tokens may be
    read. label_available_at is kept: who serves masks labels by the request's instant, as the feed does offline.

    Args:
        dataset: names keys, L, lag and retention.
        space: space of ``segments``; None for raw.
        segments: at least the partitions of ``segment_parts`` of the partition that holds T.
        as_of_ms: T, milliseconds.

    Returns:
        Schema histories; ``part`` holds T and ``as_of`` is T's horizon.

    Raises:
        MixedSpacesError: ``segments`` hold another space.
    """
    gate = 0 if space is None else space.fm_train_cutoff + space.training_lag_ms
    requests = (
        segments.select("key", "key_id").distinct()
        .withColumn("part", F.lit(dataset.clock.part_of(as_of_ms)))
        .withColumn("as_of", F.lit(dataset.history_clock.horizon(as_of_ms)).cast("long"))
        .where(F.lit(as_of_ms >= gate))
    )  # fmt: skip
    return histories_frame(segments.sparkSession, dataset, space_name(space), segments, requests)
