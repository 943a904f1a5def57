"""The second source: past events that feed raw histories and event lists, never examples."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from feature_store.config import DatasetConfig, InstantColumn, PastEvents
from feature_store.errors import ContractError
from feature_store.sources.explode import explode_together
from feature_store.sources.expressions import id_column, instant_column, resolve, same_ids
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
    rows, ids = _map(frame, dataset, past, raw.columns)
    return JudgedSource(rows, raw, ids)


def require_same_ids(examples: JudgedSource, past_events: JudgedSource) -> None:
    """Ids of both sources must be made alike: otherwise no past event would ever meet an example.

    Raises:
        ContractError: naming the entity and its types.
    """
    for name, kind in past_events.id_types.items():
        wanted = examples.id_types.get(name, kind)
        if not same_ids(kind, wanted):
            raise ContractError(
                f"{_FIELD}.entities.{name}: got type {kind.simpleString()}; allowed: that of entities.{name}, "
                f"{wanted.simpleString()}: ids of two types are never equal; cast one, as in string({name})"
            )


def _map(
    frame: DataFrame, dataset: DatasetConfig, past: PastEvents, columns: list[str]
) -> tuple[DataFrame, dict[str, T.DataType]]:
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
    ids = {name: kinds[f"{_FIELD}.entities.{name}"] for name in past.entities}
    return typed.select(F.xxhash64("user", "item", "event_ts").alias("example_id"), "*"), ids
