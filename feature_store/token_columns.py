"""Spark columns that segments, histories and features share: key ids, horizons, labels per head, the space check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from feature_store.config import RAW_SPACE, DatasetConfig
from feature_store.errors import MixedSpacesError
from feature_store.keys import key_id_column

if TYPE_CHECKING:
    from feature_store.spaces import SpaceRecord


def space_name(space: SpaceRecord | None) -> str:
    """``space_id`` of tokens: the space's own, or raw where there is none."""
    return RAW_SPACE if space is None else space.space_id


def head_names(dataset: DatasetConfig, space: SpaceRecord | None) -> list[str]:
    """Verticals in the order of a token's labels: the space's own, those of the data set for raw."""
    return dataset.heads if space is None else space.heads


def key_columns(dataset: DatasetConfig) -> dict[str, Column]:
    """``key_NAME`` -> id of the row for each history key; null where a column that composes it is null."""
    return {f"key_{name}": key_id_column(columns) for name, columns in dataset.histories.keys.items()}


def as_of_column(dataset: DatasetConfig, space: SpaceRecord | None) -> Column:
    """Horizon of an example by its ``event_ts``; null before the space's tokens may be read at all."""
    event_ts = F.col("event_ts")
    horizon = dataset.history_clock.horizon(cast(Any, event_ts))
    if space is None:
        return cast(Column, horizon)
    return F.when(event_ts >= space.fm_train_cutoff + space.training_lag_ms, horizon)


def labels_by_head(heads: list[str], labels: DataFrame) -> DataFrame:
    """One row per (part, example_id): label_H and available_H of each head, null where the vertical has none."""
    columns = []
    for head, vertical in enumerate(heads):
        own = F.col("vertical") == vertical
        columns += [
            F.max(F.when(own, F.col("label"))).alias(f"label_{head}"),
            F.max(F.when(own, F.col("label_available_at"))).alias(f"available_{head}"),
        ]
    return labels.groupBy("part", "example_id").agg(*columns)


def within(frame: DataFrame, parts: list[str]) -> DataFrame:
    """Rows of the contiguous ``parts``."""
    return frame.where(F.col("part").between(min(parts), max(parts)))


def check_space(frame: DataFrame, space_id: str, table: str) -> None:
    """Refuse rows of another space. A pinned read of one space's partitions lists no file for this.

    Raises:
        MixedSpacesError: ``frame`` holds another space_id; names both.
    """
    other = frame.where(F.col("space_id") != space_id).select("space_id").head(1)
    if other:
        raise MixedSpacesError(
            f"{table}: rows of space {other[0][0]!r} would meet space {space_id!r}; "
            "read one space, or backfill the other"
        )
