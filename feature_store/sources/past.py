"""The second source: past events that feed raw histories and event lists, never examples."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.config import DatasetConfig, InstantColumn, PastEvents
from feature_store.errors import ContractError
from feature_store.sources.explode import explode_together
from feature_store.sources.expressions import id_column, instant_column, resolve
from feature_store.sources.pipeline import JudgedSource
from feature_store.sources.reader import FILE_COLUMN, MALFORMED_COLUMN, read_source
from feature_store.sources.span import Span, restrict

_FIELD = "source.past_events"


def judged_past_events(
    spark: SparkSession, dataset: DatasetConfig, past: PastEvents, span: Span | None, skip: frozenset[str]
) -> JudgedSource:
    """Past events of a span: example_id, entities (null where not given), event_ts, label_NAME, reason, _source.

    ``example_id`` hashes user, item and event_ts: an event that two files tell is one event.
    """
    raw = read_source(spark, past.read, past.expected_columns, skip)
    if raw.frame is None:
        return JudgedSource(None, raw)
    frame = explode_together(raw.frame, past.explode) if past.explode else raw.frame
    frame = restrict(frame, InstantColumn(value=past.event_ts, unit=past.unit), span, f"{_FIELD}.event_ts")
    return JudgedSource(_map(frame, dataset, past, raw.columns), raw)


def _map(frame: DataFrame, dataset: DatasetConfig, past: PastEvents, columns: list[str]) -> DataFrame:
    unknown = (set(past.entities) - set(dataset.entities)) | (set(past.labels) - set(dataset.labels))
    if unknown:
        raise ContractError(f"{_FIELD}: {sorted(unknown)} are no entities or labels of {dataset.name}")
    fields = {f"{_FIELD}.entities.{n}": sql for n, sql in past.entities.items()}
    fields |= {f"{_FIELD}.labels.{n}": sql for n, sql in past.labels.items()} | {f"{_FIELD}.event_ts": past.event_ts}
    kinds = resolve(frame, fields)
    values = {
        name: id_column(F.expr(past.entities[name]), kinds[f"{_FIELD}.entities.{name}"])
        if name in past.entities
        else F.lit(None).cast("long")
        for name in dataset.entities
    }
    instant = instant_column(F.expr(past.event_ts), kinds[f"{_FIELD}.event_ts"], past.unit, f"{_FIELD}.event_ts")
    labels = {name: F.expr(sql) for name, sql in past.labels.items()}
    numbers = {name: label.cast("double") for name, label in labels.items()}
    reasons = (
        [F.when(F.col(MALFORMED_COLUMN).isNotNull(), "malformed row")] if MALFORMED_COLUMN in frame.columns else []
    )
    reasons += [F.when(values[name].isNull(), f"past event: null {name}") for name in past.entities]
    reasons.append(F.when(F.expr(past.event_ts).isNull(), "past event: null event_ts"))
    reasons.append(F.when(instant.isNull(), "past event: unparsable event_ts"))
    reasons += [
        F.when(labels[n].isNotNull() & ~F.coalesce(numbers[n].isin(0.0, 1.0), F.lit(False)), f"past event: label {n}")
        for n in labels
    ]
    typed = frame.select(
        *(value.alias(name) for name, value in values.items()),
        instant.alias("event_ts"),
        *(
            (numbers[n].cast("tinyint") if n in labels else F.lit(None).cast("tinyint")).alias(f"label_{n}")
            for n in dataset.labels
        ),
        FILE_COLUMN,
        F.coalesce(*reasons).alias("reason"),
        F.struct(*(F.col(f"`{name}`") for name in columns)).alias("_source"),
    )
    return typed.select(F.xxhash64("user", "item", "event_ts").alias("example_id"), "*")
