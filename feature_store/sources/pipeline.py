"""The adapter parts in order: read, restrict to a span, filter, explode, sample negatives, join, map and judge."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from feature_store.config import DatasetConfig
from feature_store.errors import ContractError
from feature_store.sources.explode import explode_column
from feature_store.sources.expressions import resolve
from feature_store.sources.joins import join_side_tables
from feature_store.sources.mapping import POSITION_COLUMN, map_rows
from feature_store.sources.negatives import lookback, sample_negatives
from feature_store.sources.reader import RawSource, read_source
from feature_store.sources.span import Span, restrict
from feature_store.world.source import world_columns, world_file_part, world_frame, world_span


@dataclass(frozen=True)
class JudgedSource:
    """Mapped and judged rows (see ``mapping.map_rows``; None: no readable file) and what the reader found.

    ``id_types``: of the entities in the source.
    """

    rows: DataFrame | None
    raw: RawSource
    id_types: dict[str, T.DataType] = field(default_factory=dict)


def open_raw(spark: SparkSession, dataset: DatasetConfig, span: Span | None, skip: frozenset[str]) -> RawSource:
    """Raw rows whose event lies in the span, and those without a readable event time."""
    source = dataset.source
    if source.world is not None:
        first, end = world_span(source.world, dataset.clock) if span is None else (span.start, span.end)
        frame = world_frame(spark, source.world, dataset.clock, first, end)
        return RawSource(frame, list(world_columns(source.world)), file_part=world_file_part)
    if source.read is None:
        raise ContractError(f"{dataset.name}: source: neither read nor world is given")
    raw = read_source(spark, source.read, source.expected_columns, skip)
    if raw.frame is None:
        return raw
    return replace(raw, frame=restrict(raw.frame, dataset.event_ts, span, "event_ts.value"))


def judged_rows(
    spark: SparkSession,
    dataset: DatasetConfig,
    span: Span | None,
    *,
    skip: frozenset[str] = frozenset(),
    negatives: bool = True,
) -> JudgedSource:
    """Examples of a span, each good or with the reason why not; ``negatives`` off leaves a source's own rows."""
    source = dataset.source
    sampling = source.negatives if negatives else None
    raw = open_raw(spark, dataset, lookback(span, sampling), skip)
    if raw.frame is None:
        return JudgedSource(None, raw)
    frame, columns = raw.frame, raw.columns
    if source.where is not None:
        resolve(frame, {"source.where": source.where})
        # Null means that a value it needs is missing or unreadable: such a row is to be judged, not lost.
        frame = frame.where(F.coalesce(F.expr(source.where), F.lit(True)))
    if source.explode is not None:
        frame = explode_column(frame, source.explode).withColumn(POSITION_COLUMN, F.col(source.explode.position))
        columns = [*columns, source.explode.name, source.explode.position]
    if sampling is not None:
        frame = sample_negatives(frame, dataset, sampling, span)
    frame, added = join_side_tables(spark, frame, source.joins)
    types = resolve(frame, {f"entities.{name}": sql for name, sql in dataset.entities.items()})
    ids = {name: types[f"entities.{name}"] for name in dataset.entities}
    return JudgedSource(map_rows(frame, dataset, [*columns, *added]), raw, ids)
