"""Ingest: a declared source to validated examples, labels and past events, and the rest to quarantine with a reason.

Where a rejected row belongs: to the partition of its event. A row without a readable event time belongs to the
partition of the first dated row of its file (of the source, where the file has none), a function of the file alone, so
that any range of partitions puts it in the same place. A file that cannot be read may hold rows of any partition:
every partition ingested meanwhile carries one row that names it, which also says what to ingest again once it is
repaired.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from py4j.protocol import Py4JError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from feature_store.config import DatasetConfig
from feature_store.errors import ContractError
from feature_store.ingest_rejects import (
    UNREADABLE_FILE,
    check_shares,
    drop_duplicates,
    place_undated,
    rejected_rows,
    unreadable_rows,
)
from feature_store.schemas import LABELS, QUARANTINE, examples_schema, past_events_schema
from feature_store.sources.expressions import lenient, part_column, resolve
from feature_store.sources.past import judged_past_events
from feature_store.sources.pipeline import JudgedSource, judged_rows
from feature_store.sources.reader import RawSource, find_broken_files
from feature_store.sources.span import Span

log = logging.getLogger(__name__)


@dataclass
class IngestFrames:
    """What one ingest writes, with exactly the schemas of ``feature_store.schemas``.

    ``past_events`` is None where the data set declares none. ``rejected`` counts quarantine rows per partition,
    ``warnings`` names what is odd but no error. The frames read a cache: call ``release`` once they are written.
    """

    examples: DataFrame
    labels: DataFrame
    past_events: DataFrame | None
    quarantine: DataFrame
    rejected: dict[str, int]
    warnings: list[str]
    held: list[DataFrame] = field(default_factory=list)

    def release(self) -> None:
        """Give the cache back."""
        for frame in self.held:
            frame.unpersist()
        self.held.clear()


def ingest_frames(spark: SparkSession, dataset: DatasetConfig, parts: list[str]) -> IngestFrames:
    """Read, map and judge the rows of a contiguous range of partitions. Nothing is written.

    Raises:
        ContractError: a setting does not fit the source, or the parts are no contiguous range.
        BadDataError: a column is missing or has another type, or more is rejected than ``checks.max_reject_share``;
            raised before anything could be written.
    """
    clock = dataset.clock
    if not parts or clock.between(parts[0], parts[-1]) != list(parts):
        raise ContractError(f"got partitions {parts}; allowed: one contiguous, ascending range")
    with lenient(spark):
        try:
            frames = _Ingest(spark, dataset, parts, frozenset()).frames()
        except (PySparkException, Py4JError):
            broken = _broken_files(spark, dataset)
            if not broken:
                raise
            frames = _Ingest(spark, dataset, parts, broken).frames()
    for warning in frames.warnings:
        log.warning("%s: %s", dataset.name, warning)
    return frames


def source_parts(spark: SparkSession, dataset: DatasetConfig) -> tuple[str, str] | None:
    """First and last partition that hold examples; None where the source has no dated row."""
    return _extent(spark, dataset, lambda: judged_rows(spark, dataset, None, negatives=False))


def past_parts(spark: SparkSession, dataset: DatasetConfig) -> tuple[str, str] | None:
    """First and last partition that hold past events; None where there are none."""
    past = dataset.source.past_events
    if past is None:
        return None
    return _extent(spark, dataset, lambda: judged_past_events(spark, dataset, past, None, frozenset()))


def _extent(spark: SparkSession, dataset: DatasetConfig, judged: Callable[[], JudgedSource]) -> tuple[str, str] | None:
    with lenient(spark):
        rows = judged().rows
        if rows is None:
            return None
        extent = rows.where("reason is null").agg(F.min("event_ts"), F.max("event_ts")).collect()[0]
    return None if extent[0] is None else (dataset.clock.part_of(extent[0]), dataset.clock.part_of(extent[1]))


def _broken_files(spark: SparkSession, dataset: DatasetConfig) -> frozenset[str]:
    source = dataset.source
    reads = [read for read in (source.read, source.past_events and source.past_events.read) if read]
    return frozenset[str]().union(*(find_broken_files(spark, r) for r in reads if r.format != "delta"))


class _Ingest:
    """One pass over the sources of a range."""

    def __init__(self, spark: SparkSession, dataset: DatasetConfig, parts: list[str], skip: frozenset[str]) -> None:
        self.spark, self.dataset, self.parts, self.skip = spark, dataset, parts, skip
        self.span = Span(dataset.clock.start(parts[0]), dataset.clock.end(parts[-1]))
        self.held: list[DataFrame] = []
        self.rejects: list[DataFrame] = []
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.accepted = 0
        self.raws: list[RawSource] = []

    def frames(self) -> IngestFrames:
        try:
            examples, labels = self._examples()
            past_events = self._past_events()
            self._unreadable()
            check_shares(self.dataset, self.parts, self.accepted, self.reasons, self.raws)
        except BaseException:
            for frame in self.held:
                frame.unpersist()
            raise
        quarantine = self.spark.createDataFrame([], from_arrow_schema(QUARANTINE))
        for reject in self.rejects:
            quarantine = quarantine.unionByName(reject)
        rejected: Counter[str] = Counter()
        for (part, _), count in self.reasons.items():
            rejected[part] += count
        warnings = [warning for raw in self.raws for warning in raw.warnings]
        return IngestFrames(examples, labels, past_events, quarantine, dict(rejected), warnings, self.held)

    def _examples(self) -> tuple[DataFrame, DataFrame]:
        dataset, schema = self.dataset, from_arrow_schema(examples_schema(self.dataset))
        source = judged_rows(self.spark, dataset, self.span, skip=self.skip)
        self.raws.append(source.raw)
        if source.rows is None:
            nothing = self.spark.createDataFrame([], from_arrow_schema(LABELS))
            return self.spark.createDataFrame([], schema), nothing
        everything = judged_rows(self.spark, dataset, None, skip=self.skip, negatives=False)
        good = self._judge(source.rows, everything)
        suspects = drop_duplicates(good, self._with_part(source.rows))
        if suspects is not None:
            good = suspects.kept
            self.held.append(suspects.held)
            self._reject(suspects.repeated, suspects.counts)
            self.accepted -= sum(suspects.counts.values())
        return good.select(*(F.col(f.name).cast(f.dataType) for f in schema)), self._labels(good)

    def _labels(self, good: DataFrame) -> DataFrame:
        """One row per example and vertical whose filter it meets and whose label the row has."""
        dataset = self.dataset
        seen = good.select(*examples_schema(dataset).names)
        resolve(seen, {f"verticals.{n}.where": v.where for n, v in dataset.verticals.items() if v.where is not None})
        rows = F.array(*(_label_row(name, v.label, v.where) for name, v in dataset.verticals.items()))
        exploded = good.select("part", "example_id", F.inline(F.filter(rows, lambda row: row.isNotNull())))
        schema = from_arrow_schema(LABELS)
        return exploded.select(*(F.col(f.name).cast(f.dataType) for f in schema))

    def _past_events(self) -> DataFrame | None:
        past = self.dataset.source.past_events
        if past is None:
            return None
        schema = from_arrow_schema(past_events_schema(self.dataset))
        source = judged_past_events(self.spark, self.dataset, past, self.span, self.skip)
        self.raws.append(source.raw)
        if source.rows is None:
            return self.spark.createDataFrame([], schema)
        everything = judged_past_events(self.spark, self.dataset, past, None, self.skip)
        good = self._judge(source.rows, everything)
        keys = [f.name for f in schema if not f.name.startswith("label_")]
        labels = [F.max(f"label_{name}").alias(f"label_{name}") for name in self.dataset.labels]
        return good.groupBy(*keys).agg(*labels).select(*(F.col(f.name).cast(f.dataType) for f in schema))

    def _judge(self, rows: DataFrame, everything: JudgedSource) -> DataFrame:
        """Hold the judged rows, count them by reason, send the bad to quarantine; the good are returned."""
        judged = self._with_part(rows).withColumn("row", F.when(F.col("reason").isNotNull(), _json()))
        held = judged.drop("_source").persist(StorageLevel.MEMORY_AND_DISK)
        self.held.append(held)
        counts = {(row[0], row[1]): row[2] for row in held.groupBy("part", "reason").count().collect()}
        self.accepted += sum(count for (_, reason), count in counts.items() if reason is None)
        bad = held.where(F.col("reason").isNotNull())
        self._reject(bad.where(F.col("part").isNotNull()), {k: n for k, n in counts.items() if None not in k})
        if any(part is None for part, _ in counts):
            undated = bad.where(F.col("part").isNull()).drop("part")
            placed = place_undated(undated, everything, self.dataset, self.parts)
            self._reject(placed, {(r[0], r[1]): r[2] for r in placed.groupBy("part", "reason").count().collect()})
        return held.where(F.col("reason").isNull())

    def _with_part(self, rows: DataFrame) -> DataFrame:
        return rows.withColumn("part", part_column(self.dataset.clock, F.col("event_ts")))

    def _reject(self, rows: DataFrame, counts: dict[tuple[str, str], int]) -> None:
        if counts:
            self.rejects.append(rejected_rows(rows))
            self.reasons.update(counts)

    def _unreadable(self) -> None:
        files = {path: why for raw in self.raws for path, why in raw.unreadable.items()}
        if files:
            self.rejects.append(unreadable_rows(self.spark, files, self.parts))
            self.reasons.update({(part, UNREADABLE_FILE): len(files) for part in self.parts})


def _json() -> Column:
    return F.to_json("_source", {"ignoreNullFields": "false"})


def _label_row(vertical: str, label: str, where: str | None) -> Column:
    value = F.col(f"label_{label}")
    row = F.struct(
        F.lit(vertical).alias("vertical"), value.alias("label"), F.col(f"known_{label}").alias("label_available_at")
    )
    meets = F.expr(where) if where is not None else F.lit(True)
    return F.when(value.isNotNull() & meets, row)
