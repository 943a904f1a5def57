"""As-of features of examples as Spark frames: one shuffle a group of keys, no join of results.

Rows pass from shuffle to shuffle and gather columns on the way; each time the rows of whole keys meet the NumPy core.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructField, StructType

from feature_store.asof_chunk import AsOfClock, over_chunks
from feature_store.asof_pass import ImpressionWork, PassWork, columns_of_pass
from feature_store.asof_plan import Pass, Plan, fm_plan, vm_plan
from feature_store.asof_rows import (
    IMPRESSION_ROUTE,
    KIND,
    QUERY,
    columns_read,
    example_rows,
    partial_rows,
    past_event_rows,
    route_column,
)
from feature_store.asof_spark import as_of_clock, shuffled
from feature_store.config import DatasetConfig
from feature_store.schemas import fm_inputs_schema


def fm_inputs_frame(
    spark: SparkSession,
    dataset: DatasetConfig,
    examples: DataFrame,
    labels: DataFrame,
    past_events: DataFrame | None,
    parts: Sequence[str],
    inputs_id: str,
    partials: DataFrame | None = None,
) -> DataFrame:
    """Rows of table fm_inputs for ``parts``: all that the FM reads, on its own clock, the event.

    Args:
        spark: the session; its shuffle partitions set the number of tasks.
        dataset: declarations of as-of columns, lists and within-impression columns.
        examples: examples of the partitions that ``needed_parts`` wants raw; those of ``parts`` are among them.
        labels: their labels.
        past_events: past events of the same partitions, where the data set has a second source.
        parts: partitions whose rows are wanted.
        inputs_id: digest of the FM's declaration.
        partials: rows of table partials of exactly the partitions that ``needed_parts`` wants as partial sums.
    """
    schema = fm_inputs_schema(dataset)
    plan = fm_plan(dataset)
    carried = [name for name in schema.names if name in examples.columns]
    rows = example_rows(dataset, plan, examples, labels, parts, carried)
    frame = _run(spark, dataset, plan, rows, past_events, partials)
    columns = dict(zip(schema.names, from_arrow_schema(schema).fields, strict=True))
    frame = frame.withColumn("inputs_id", F.lit(inputs_id))
    return frame.select(*(F.col(name).cast(field.dataType).alias(name) for name, field in columns.items()))


def counters_frame(
    spark: SparkSession,
    dataset: DatasetConfig,
    examples: DataFrame,
    labels: DataFrame,
    parts: Sequence[str],
    names: Sequence[str],
    partials: DataFrame | None = None,
) -> DataFrame:
    """As-of declarations ``names`` on the VM's clock (closed partitions + lag), for the examples of ``parts``.

    ``examples``, ``labels`` and ``partials`` hold the partitions that ``needed_parts`` gives for ``names``.
    Columns: part, example_id, counter_COLUMN for every column of the declarations, float32.
    """
    plan = vm_plan(dataset, names)
    carried = ["part", "example_id"]
    rows = example_rows(dataset, plan, examples, labels, parts, carried)
    frame = _run(spark, dataset, plan, rows, None, partials)
    columns = [column for name in names for column in dataset.as_of_columns(name) or []]
    return frame.select(*carried, *(F.col(column).alias(f"counter_{column}") for column in columns))


def _run(
    spark: SparkSession,
    dataset: DatasetConfig,
    plan: Plan,
    rows: DataFrame,
    past_events: DataFrame | None,
    partials: DataFrame | None,
) -> DataFrame:
    clock = as_of_clock(dataset, plan)
    for place, one in enumerate(plan.passes):
        if one.lists and past_events is not None:
            rows = rows.unionByName(past_event_rows(dataset, one, past_events), allowMissingColumns=True)
        if partials is not None:
            rows = rows.unionByName(partial_rows(plan, one, partials), allowMissingColumns=True)
        later = plan.passes[place + 1 :]
        spent = set(columns_read(one)).difference(*map(columns_read, later))
        rows = _pass(spark, clock, one, rows, spent, last=not later)
        if plan.within and one == plan.before[-1]:
            rows = _impressions(spark, plan, rows)
    return rows.where(F.col(KIND) == QUERY)


def _pass(
    spark: SparkSession, clock: AsOfClock, one: Pass, rows: DataFrame, spent: set[str], *, last: bool
) -> DataFrame:
    schema = StructType([f for f in rows.schema.fields if f.name not in spent] + _fields(columns_of_pass(one)))
    route = route_column(one.anchor)
    work = PassWork(one, clock, tuple(schema.names), last)
    return shuffled(spark, rows, route).mapInArrow(over_chunks(route, work), schema)


def _impressions(spark: SparkSession, plan: Plan, rows: DataFrame) -> DataFrame:
    kept = [field for field in rows.schema.fields if field.name != IMPRESSION_ROUTE]
    added = [(f"{name}_{suffix}", pa.float32()) for name in plan.within for suffix in ("rank", "diff")]
    schema = StructType(kept + _fields(added))
    work = ImpressionWork(plan.within, tuple(schema.names))
    return shuffled(spark, rows, IMPRESSION_ROUTE).mapInArrow(over_chunks(IMPRESSION_ROUTE, work), schema)


def _fields(fields: list[tuple[str, pa.DataType]]) -> list[StructField]:
    return from_arrow_schema(pa.schema(fields)).fields
