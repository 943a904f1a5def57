"""The rows that as-of passes work on: examples with keys, routes, units and labels beside them, as a Spark frame.

Names with a leading underscore cannot clash with a data set's columns, which start with a letter.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from feature_store.asof_core import UNIT
from feature_store.asof_plan import Pass, Plan, list_measure
from feature_store.config import DatasetConfig, EventList
from feature_store.keys import key_id_column

KIND = "_kind"
QUERY, EXAMPLE, PAST_EVENT, PARTIAL = 0, 1, 2, 3
UNITS = "_units"
MEASURE = "_measure"
AVAILABLE = "_available"
IMPRESSION_ROUTE = "_route_impression"


def key_column(name: str) -> str:
    """Column that holds the id of key ``name`` (its columns, comma separated)."""
    return f"_key_{name}"


def route_column(anchor: str) -> str:
    """Column that decides where a row goes in the pass of ``anchor``."""
    return f"_route_{anchor}"


def entity_column(event_list: EventList) -> str:
    """Column that holds what the list shows of an event."""
    return f"_entity_{event_list.name}"


def label_column(label: str) -> str:
    """Column of a label's value."""
    return f"_label_{label}"


def known_column(label: str) -> str:
    """Column of the instant from which a label is known."""
    return f"_known_{label}"


def columns_read(one: Pass) -> list[str]:
    """Columns with a leading underscore that a pass reads: its route, keys, list entities and labels."""
    labels = [label for key in one.keys for label in key.labels]
    return [
        route_column(one.anchor),
        *(key_column(key.name) for key in one.keys),
        *(entity_column(event_list) for event_list in one.lists),
        *(column for label in labels for column in (label_column(label), known_column(label))),
    ]


def example_rows(
    dataset: DatasetConfig,
    plan: Plan,
    examples: DataFrame,
    labels: DataFrame,
    parts: Sequence[str],
    carried: Sequence[str],
) -> DataFrame:
    """Examples with what passes need; those of ``parts`` are queries. ``carried`` columns come along unchanged."""
    base = ["part", "example_id", "user", "item", "event_ts", "arrived_at", "impression_id"]
    internal = {KIND: F.when(F.col("part").isin(list(parts)), QUERY).otherwise(EXAMPLE).cast("int"), UNITS: _units()}
    internal |= {key_column(key.name): key_id_column(key.columns) for key in plan.keys}
    internal |= {route_column(one.anchor): _route(one.anchor) for one in plan.passes}
    internal |= {entity_column(e): F.col(e.entity).cast("long") for one in plan.passes for e in one.lists}
    if plan.within:
        internal[IMPRESSION_ROUTE] = _route("impression_id")
    rows = examples.select(
        *dict.fromkeys([*base, *carried]), *(column.alias(name) for name, column in internal.items())
    )
    if not plan.labels:
        return rows
    return rows.join(_label_columns(dataset, plan.labels, labels), "example_id", "left")


def past_event_rows(dataset: DatasetConfig, one: Pass, past_events: DataFrame) -> DataFrame:
    """Past events of the second source for the event lists of a pass; labels are known after the declared delay."""
    there = set(past_events.columns)
    keys = [key for key in one.keys if key.lists and there.issuperset(key.columns)]
    lists = [e for e in one.lists if e.entity in there]
    labels = list(dict.fromkeys(e.label for e in lists if e.label))
    internal = {KIND: F.lit(PAST_EVENT).cast("int")}
    internal |= {key_column(key.name): key_id_column(key.columns) for key in keys}
    internal |= {entity_column(e): F.col(e.entity).cast("long") for e in lists}
    internal |= {label_column(name): F.col(f"label_{name}").cast("int") for name in labels}
    internal |= {known_column(name): F.col("event_ts") + dataset.labels[name].delay for name in labels}
    internal[route_column(one.anchor)] = _route(one.anchor) if one.anchor in there else F.col("example_id")
    base = ["part", "example_id", "user", "item", "event_ts"]
    return past_events.select(*base, *(column.alias(name) for name, column in internal.items()))


def partial_rows(plan: Plan, one: Pass, partials: DataFrame) -> DataFrame:
    """Rows of table ``partials`` that a pass reads in place of the examples of their partitions."""
    clock = f"{plan.clock}."
    key, measure = F.col("key"), F.col("measure")
    anchors = [F.when(key == k.name, F.col("key_values")[k.columns.index(one.anchor)]) for k in one.keys]
    internal = {"event_ts": F.col("first_ts"), KIND: F.lit(PARTIAL).cast("int"), UNITS: F.col("units")}
    internal |= {MEASURE: F.substring(measure, len(clock) + 1, 1_000), AVAILABLE: F.col("available_at")}
    internal |= {key_column(k.name): F.when(key == k.name, F.col("key_id")) for k in one.keys}
    internal |= {entity_column(e): F.when(measure == clock + list_measure(e), F.col("entity")) for e in one.lists}
    internal[route_column(one.anchor)] = F.coalesce(*anchors)
    wanted = partials.where(key.isin([k.name for k in one.keys]) & measure.startswith(clock))
    return wanted.select("part", "example_id", *(column.alias(name) for name, column in internal.items()))


def _units() -> Column:
    weight = F.coalesce(F.col("weight"), F.lit(1.0)).cast("double")
    rate = F.coalesce(F.col("sampling_rate"), F.lit(1.0)).cast("double")
    return F.round(weight / rate * UNIT).cast("long")


def _route(column: str) -> Column:
    # Rows without a key go anywhere: by their own id they do not pile up in one partition.
    return F.coalesce(F.col(column).cast("long"), F.col("example_id"))


def _label_columns(dataset: DatasetConfig, names: Sequence[str], labels: DataFrame) -> DataFrame:
    """One row an example: value and instant of each label, from any vertical that has it; the verticals agree."""
    columns = []
    for name in names:
        verticals = [vertical for vertical, settings in dataset.verticals.items() if settings.label == name]
        known = F.col("vertical").isin(verticals) & F.col("label").isNotNull() & F.col("label_available_at").isNotNull()
        columns += [
            F.max(F.when(known, F.col("label").cast("int"))).alias(label_column(name)),
            F.max(F.when(known, F.col("label_available_at"))).alias(known_column(name)),
        ]
    return labels.groupBy("example_id").agg(*columns)
