"""Features: what a VM trains on and scores, one row per example and vertical that it belongs to.

Histories are not copied into rows: the feed looks them up by key id and as_of.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from feature_store.config import DatasetConfig, Vertical
from feature_store.schemas import features_schema
from feature_store.sources.expressions import lenient
from feature_store.token_columns import as_of_column, check_space, key_columns, labels_by_head

if TYPE_CHECKING:
    from feature_store.spaces import SpaceRecord

IDENTITY = ["part", "example_id"]


def features_frame(
    spark: SparkSession,
    dataset: DatasetConfig,
    space: SpaceRecord,
    examples: DataFrame,
    labels: DataFrame,
    outputs: DataFrame,
    counters: DataFrame | None,
) -> DataFrame:
    """Features of a space (schema features): every example after the space's cutoff, once a vertical it belongs to.

    An example belongs to a vertical whose filter it meets. Its label is null as long as there is none, as for all that
    serving scores; one that is not known yet is kept with its label_available_at: who reads the row decides by its own
    instant.

    Args:
        spark: the session that all frames belong to.
        dataset: names verticals, keys and columns.
        space: decides which rows exist, which may read histories, and whose logits teach.
        examples, labels, outputs: rows of the same partitions; outputs of this space.
        counters: counter_COLUMN per (part, example_id) on the VM's clock; None where no vertical declares any.

    Raises:
        MixedSpacesError: ``outputs`` hold another space.
    """
    check_space(outputs, space.space_id, "fm_outputs")
    rows = _of_verticals(spark, dataset, examples.where(F.col("event_ts") > space.fm_train_cutoff), labels)
    rows = rows.join(outputs.select(*IDENTITY, "logits"), IDENTITY, "left")
    if counters is not None:
        rows = rows.join(counters, IDENTITY, "left")
    made: dict[str, Column] = {
        "space_id": F.lit(space.space_id),
        "teacher_logit": _teacher_logit(space),
        "as_of": as_of_column(dataset, space),
        **key_columns(dataset),
        **_allowed_columns(dataset),
    }
    types = {field.name: field.dataType for field in from_arrow_schema(features_schema(dataset))}
    return rows.select(*(made.get(name, F.col(name)).cast(kind).alias(name) for name, kind in types.items()))


def _of_verticals(spark: SparkSession, dataset: DatasetConfig, examples: DataFrame, labels: DataFrame) -> DataFrame:
    """Examples once a vertical that they belong to, with its label where there is one."""
    heads = range(len(dataset.heads))
    own = [F.struct(f"label_{head}", f"available_{head}").alias(f"_own_{head}") for head in heads]
    known = labels_by_head(dataset.heads, labels).select(*IDENTITY, *own)
    with lenient(spark):
        meets = {f"_meets_{head}": F.expr(v.where or "true") for head, v in enumerate(dataset.verticals.values())}
        examples = examples.withColumns(meets)
    rows = F.array(*(_vertical_row(head, name) for head, name in enumerate(dataset.heads)))
    belongs = F.inline(F.filter(rows, lambda row: row.isNotNull()))
    return examples.join(known, IDENTITY, "left").select(*examples.columns, belongs)


def _vertical_row(head: int, vertical: str) -> Column:
    # Labels were written by filters over the source's doubles: one counts even where a stored float32 says otherwise.
    label = F.col(f"_own_{head}.label_{head}")
    available = F.col(f"_own_{head}.available_{head}").alias("label_available_at")
    row = F.struct(F.lit(vertical).alias("vertical"), label.alias("label"), available)
    return F.when(F.col(f"_meets_{head}") | label.isNotNull(), row)


def _teacher_logit(space: SpaceRecord) -> Column:
    heads = chain.from_iterable((F.lit(vertical), F.lit(head)) for head, vertical in enumerate(space.heads))
    return F.get(F.col("logits"), F.create_map(*heads)[F.col("vertical")])


def _allowed_columns(dataset: DatasetConfig) -> dict[str, Column]:
    """Request features and counters, null where the row's vertical may not see them. Entities identify a row: kept."""
    made = {}
    for name in features_schema(dataset).names:
        plain = name.removeprefix("counter_")
        if name in dataset.event_features or name.startswith("counter_"):
            allowed = [v for v, s in dataset.verticals.items() if plain in _visible(dataset, s, name != plain)]
            made[name] = F.when(F.col("vertical").isin(allowed), F.col(name))
    return made


def _visible(dataset: DatasetConfig, vertical: Vertical, counters: bool) -> list[str]:
    if not counters:
        return vertical.features
    return [column for name in vertical.counters for column in dataset.as_of_columns(name) or []]
