"""Source rows to examples: declared columns, labels, and for every row that may not pass the reason why."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from feature_store.config import DatasetConfig, FeatureColumn, InstantColumn
from feature_store.sources.expressions import (
    id_column,
    id_list_column,
    instant_column,
    not_finite,
    require_array,
    resolve,
)
from feature_store.sources.reader import FILE_COLUMN, MALFORMED_COLUMN

POSITION_COLUMN = "_position"
RATE_COLUMN = "_negative_rate"
SOURCE_COLUMN = "_source"
ID_PARTS = ("user", "item", "event_ts", "impression_id", "_place")


@dataclass(frozen=True)
class _Field:
    """A typed column and the reasons for which its row is rejected, in order."""

    value: Column
    faults: list[tuple[str, Column]]


def map_rows(frame: DataFrame, dataset: DatasetConfig, source_columns: list[str]) -> DataFrame:
    """One row per source row, judged.

    Args:
        frame: raw rows; may carry ``_position`` (place in the impression), ``_negative_rate`` and ``_malformed``.

    Returns:
        example_id, the entities, event_ts, arrived_at, impression_id, weight, sampling_rate, the features known at the
        event, ``label_NAME`` and ``known_NAME`` (instant) per label, source_file, ``reason`` (null: the row is good)
        and ``_source`` (the source row).
    """
    types = resolve(frame, _declared(dataset))
    fields = _fields(frame, dataset, types)
    place = F.col(POSITION_COLUMN).cast("long") if POSITION_COLUMN in frame.columns else F.lit(None).cast("long")
    typed = frame.select(
        *(field.value.alias(name) for name, field in fields.items()),
        *(fault.alias(f"_fault_{name}_{i}") for name, f in fields.items() for i, (_, fault) in enumerate(f.faults)),
        place.alias(ID_PARTS[-1]),
        F.col(FILE_COLUMN),
        F.struct(*(F.col(f"`{name}`") for name in source_columns)).alias(SOURCE_COLUMN),
        _malformed(frame).alias("_fault_row"),
    )
    reasons = [F.when(F.col("_fault_row"), "malformed row")]
    for name, field in fields.items():
        reasons += [F.when(F.col(f"_fault_{name}_{i}"), reason) for i, (reason, _) in enumerate(field.faults)]
    return typed.select(
        F.xxhash64(*ID_PARTS).alias("example_id"),
        *fields,
        FILE_COLUMN,
        F.coalesce(*reasons, *_order_faults(dataset)).alias("reason"),
        SOURCE_COLUMN,
    )


def _declared(dataset: DatasetConfig) -> dict[str, str]:
    """Every SQL text of the data set's rows, by the field that holds it."""
    texts = {f"entities.{name}": sql for name, sql in dataset.entities.items()}
    texts["event_ts.value"] = dataset.event_ts.value
    if dataset.arrived_at is not None:
        texts["arrived_at.value"] = dataset.arrived_at.value
    for name in ("impression_id", "weight", "sampling_rate"):
        if (sql := getattr(dataset, name)) is not None:
            texts[name] = sql
    for name, label in dataset.labels.items():
        texts[f"labels.{name}.value"] = label.value
        if label.available_at is not None:
            texts[f"labels.{name}.available_at.value"] = label.available_at.value
    return texts | {f"features.{name}.value": column.value for name, column in dataset.features.items()}


def _malformed(frame: DataFrame) -> Column:
    return F.col(MALFORMED_COLUMN).isNotNull() if MALFORMED_COLUMN in frame.columns else F.lit(False)


def _fields(frame: DataFrame, dataset: DatasetConfig, types: dict[str, T.DataType]) -> dict[str, _Field]:
    fields = {n: _required_id(n, sql, types[f"entities.{n}"]) for n, sql in dataset.entities.items()}
    fields["event_ts"] = _instant("event_ts", dataset.event_ts, types)
    arrived = _instant("arrived_at", dataset.arrived_at, types) if dataset.arrived_at else None
    fields["arrived_at"] = arrived or _Field(fields["event_ts"].value, [])
    if dataset.impression_id is None:
        fields["impression_id"] = _Field(F.lit(None).cast("long"), [])
    else:
        fields["impression_id"] = _required_id("impression_id", dataset.impression_id, types["impression_id"])
    fields["weight"] = _share("weight", dataset.weight, None)
    fields["sampling_rate"] = _share("sampling_rate", dataset.sampling_rate, 1.0)
    if RATE_COLUMN in frame.columns:
        fields["sampling_rate"] = _Field(F.col(RATE_COLUMN).cast("float"), [])
    for name, column in dataset.event_features.items():
        fields[name] = _feature(name, column, types[f"features.{name}.value"])
    for name in dataset.labels:
        fields |= _label(frame, dataset, name, types, fields)
    return fields


def _required_id(name: str, sql: str, kind: T.DataType) -> _Field:
    value = id_column(F.expr(sql), kind)
    return _Field(value, [(f"null {name}", value.isNull())])


def _instant(name: str, instant: InstantColumn, types: dict[str, T.DataType]) -> _Field:
    raw = F.expr(instant.value)
    value = instant_column(raw, types[f"{name}.value"], instant.unit, f"{name}.value")
    return _Field(value, [(f"null {name}", raw.isNull()), (f"unparsable {name}", value.isNull())])


def _share(name: str, sql: str | None, most: float | None) -> _Field:
    """A weight (>= 0) or a rate in (0, 1]; 1 where none is declared."""
    if sql is None:
        return _Field(F.lit(1.0).cast("float"), [])
    value = F.expr(sql).cast("float")
    wrong = (value < 0) if most is None else ((value <= 0) | (value > most))
    allowed = "at least 0" if most is None else "in (0, 1]"
    faults = [(f"null {name}", value.isNull()), (f"non-finite {name}", not_finite(value))]
    return _Field(value, [*faults, (f"{name} not {allowed}", wrong)])


def _feature(name: str, column: FeatureColumn, kind: T.DataType) -> _Field:
    raw, field = F.expr(column.value), f"features.{name}.value"
    if column.kind == "categorical":
        return _Field(id_column(raw, kind), [])
    if column.kind == "categorical_list":
        return _Field(id_list_column(raw, kind, field), [])
    if column.kind == "numeric_list":
        require_array(kind, field)
        values = raw.cast("array<float>")
        unparsable = F.exists(raw, lambda element: element.isNotNull() & element.cast("float").isNull())
        faults = [(f"unparsable {name}", unparsable), (f"non-finite {name}", F.exists(values, not_finite))]
        return _Field(values, [(reason, F.coalesce(wrong, F.lit(False))) for reason, wrong in faults])
    value = raw.cast("float")
    unparsable = raw.isNotNull() & value.isNull()
    return _Field(value, [(f"unparsable {name}", unparsable), (f"non-finite {name}", not_finite(value))])


def _label(
    frame: DataFrame, dataset: DatasetConfig, name: str, types: dict[str, T.DataType], fields: dict[str, _Field]
) -> dict[str, _Field]:
    """The label and the instant from which it is known, which is never before its row arrived.

    A sampled negative's label is 0, known as late as the positive's.
    """
    label, raw = dataset.labels[name], F.expr(dataset.labels[name].value)
    number = raw.cast("double")
    wrong = raw.isNotNull() & ~F.coalesce(number.isin(0.0, 1.0), F.lit(False))
    value = number.cast("tinyint")
    if RATE_COLUMN in frame.columns:
        value = F.when(value.isNotNull() & (F.col(POSITION_COLUMN) > 0), F.lit(0)).otherwise(value).cast("tinyint")
    faults = [(f"label {name} outside {{0, 1}}", wrong)]
    known, unknown = fields["event_ts"].value + label.delay, []
    if label.available_at is not None:
        field = f"labels.{name}.available_at.value"
        known = instant_column(F.expr(label.available_at.value), types[field], label.available_at.unit, field)
        unknown = [(f"no instant for label {name}", value.isNotNull() & known.isNull())]
    known = F.when(known.isNotNull(), F.greatest(known, fields["arrived_at"].value))
    return {f"label_{name}": _Field(value, faults), f"known_{name}": _Field(known, unknown)}


def _order_faults(dataset: DatasetConfig) -> list[Column]:
    """Instants that contradict each other; label instants cannot, as they are moved to the row's arrival."""
    if dataset.arrived_at is None:
        return []
    return [F.when(F.col("arrived_at") < F.col("event_ts"), "arrived_at before event_ts")]
