"""Partial sums: what one partition of events adds to long windows, so that they need not be read row by row again.

A partition's contributions are summed per key and per instant from which they count. On the FM's clock instants within
``reach`` (the longest declared label delay, in whole partitions) after the partition count as one: only rows after that
read the sums. What becomes known later still keeps its exact instant, so sums stay exact. On the VM's clock every
instant is a partition border already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from feature_store.asof_chunk import AsOfClock, Chunk, over_chunks
from feature_store.asof_core import Ints
from feature_store.asof_events import Events, raw_events
from feature_store.asof_parts import reach_ms
from feature_store.asof_plan import COUNT, KeyPlan, Pass, Plan, list_measure, partial_plans
from feature_store.asof_rows import example_rows, key_column, past_event_rows, route_column
from feature_store.asof_spark import as_of_clock, shuffled
from feature_store.config import DatasetConfig, EventList
from feature_store.schemas import partials_schema


def partials_frame(
    spark: SparkSession,
    dataset: DatasetConfig,
    examples: DataFrame,
    labels: DataFrame,
    past_events: DataFrame | None,
    parts: Sequence[str],
    inputs_id: str,
) -> DataFrame:
    """Rows of table partials for the events of ``parts``, for the FM's declarations and all verticals' counters.

    Args:
        spark: the session.
        dataset: the declarations.
        examples: examples of ``parts``; others are left out.
        labels: their labels.
        past_events: past events of ``parts``, where the data set has a second source.
        parts: partitions of the events to sum.
        inputs_id: digest that names the declarations.
    """
    inside = F.col("part").isin(list(parts))
    examples = examples.where(inside)
    past_events = past_events.where(inside) if past_events is not None else None
    frames = []
    for plan in partial_plans(dataset):
        carried = list(dict.fromkeys(column for key in plan.keys for column in key.columns))
        rows = example_rows(dataset, plan, examples, labels, parts, carried)
        frames += [_partials(spark, dataset, plan, one, rows, past_events, inputs_id) for one in plan.passes]
    empty = spark.createDataFrame([], from_arrow_schema(partials_schema(dataset)))
    return reduce(DataFrame.union, frames) if frames else empty


def _partials(
    spark: SparkSession,
    dataset: DatasetConfig,
    plan: Plan,
    one: Pass,
    rows: DataFrame,
    past_events: DataFrame | None,
    inputs_id: str,
) -> DataFrame:
    if one.lists and past_events is not None:
        rows = rows.unionByName(past_event_rows(dataset, one, past_events), allowMissingColumns=True)
    schema = partials_schema(dataset)
    work = PartialsWork(one, as_of_clock(dataset, plan), reach_ms(dataset, plan), schema, inputs_id)
    route = route_column(one.anchor)
    return shuffled(spark, rows, route).mapInArrow(over_chunks(route, work), from_arrow_schema(schema))


@dataclass(frozen=True)
class PartialsWork:
    """Turns the rows of whole keys into partial sums and, for event lists, each partition's newest events."""

    one: Pass
    clock: AsOfClock
    reach: int
    schema: pa.Schema
    inputs_id: str

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows in, rows of table partials out."""
        chunk = Chunk(table, self.clock)
        tables = [self.schema.empty_table()]
        for key in self.one.keys:
            ranks = chunk.key_ranks(key)
            place = _rows_of_ranks(ranks)
            tables += [self._sums(chunk, key, ranks, place, measure) for measure in key.measures]
            tables += [self._events(chunk, key, ranks, place, event_list) for event_list in key.lists]
        return pa.concat_tables(tables)

    def _sums(self, chunk: Chunk, key: KeyPlan, ranks: Ints, place: Ints, measure: str) -> pa.Table:
        seen = chunk.contributions(ranks, measure)
        end = self.clock.partitions.close(seen.event_ts)
        group = np.stack([seen.key, end, self._counts_from(end, seen.available)])
        (rank, _, available), inverse = np.unique(group, axis=1, return_inverse=True)
        units = np.zeros(len(rank), dtype=np.int64)
        first = np.full(len(rank), np.iinfo(np.int64).max)
        np.add.at(units, inverse.reshape(-1), seen.units)
        np.minimum.at(first, inverse.reshape(-1), seen.event_ts)
        kept = (units != 0) | (measure == COUNT)
        sums = {"available_at": available[kept], "first_ts": first[kept], "units": units[kept]}
        return self._table(chunk, key, place[rank[kept]], measure, sums)

    def _events(self, chunk: Chunk, key: KeyPlan, ranks: Ints, place: Ints, event_list: EventList) -> pa.Table:
        events = raw_events(chunk, event_list, ranks).in_order()
        end = self.clock.partitions.close(events.event_ts)
        counts_from = self._counts_from(end, events.available)
        kept = np.union1d(
            np.flatnonzero(counts_from > end + self.reach),
            _newest_of_each(events, end, np.flatnonzero(counts_from == end + self.reach), event_list.length),
        )
        one = events.take(kept)
        values = {"available_at": counts_from[kept], "first_ts": one.event_ts, "units": np.zeros_like(kept)}
        values |= {"entity": one.entity, "example_id": one.example_id}
        return self._table(chunk, key, place[one.key], list_measure(event_list), values)

    def _counts_from(self, end: Ints, available: Ints) -> Ints:
        return np.maximum(end + self.reach, available)

    def _table(self, chunk: Chunk, key: KeyPlan, rows: Ints, measure: str, values: dict[str, Ints]) -> pa.Table:
        """``rows`` are positions in the chunk that tell each partial row's key."""
        count, partitions = len(rows), self.clock.partitions
        starts, inverse = np.unique(partitions.floor(values["first_ts"]), return_inverse=True)
        parts = pa.array([partitions.part_of(int(start)) for start in starts], pa.string())
        composed = np.stack([chunk.ints(column)[rows] for column in key.columns], axis=1)
        offsets = np.arange(count + 1, dtype=np.int32) * len(key.columns)
        columns = {
            "inputs_id": pa.array([self.inputs_id] * count, pa.string()),
            "part": parts.take(pa.array(inverse)),
            "key": pa.array([key.name] * count, pa.string()),
            "key_id": pa.array(chunk.ints(key_column(key.name))[rows]),
            "key_values": pa.ListArray.from_arrays(pa.array(offsets), pa.array(composed.reshape(-1))),
            "measure": pa.array([f"{self.clock.name}.{measure}"] * count, pa.string()),
            **{name: pa.array(column) for name, column in values.items()},
        }
        arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in self.schema]
        return pa.table([array.cast(field.type) for array, field in zip(arrays, self.schema, strict=True)], self.schema)


def _rows_of_ranks(ranks: Ints) -> Ints:
    """Position of some row of each key."""
    place = np.zeros(int(ranks.max(initial=-1)) + 1, dtype=np.int64)
    place[ranks[ranks >= 0]] = np.flatnonzero(ranks >= 0)
    return place


def _newest_of_each(events: Events, end: Ints, rows: Ints, length: int) -> Ints:
    """Of the sorted events at ``rows`` the newest ``length`` of every key and partition."""
    if not len(rows):
        return rows
    group = np.stack([events.key[rows], end[rows]])
    border = np.flatnonzero((np.diff(group, axis=1) != 0).any(axis=0)) + 1
    stops = np.append(border, len(rows))
    stop = stops[np.searchsorted(border, np.arange(len(rows)), side="right")]
    return rows[stop - np.arange(len(rows)) <= length]
