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
from typing import TypeVar

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from feature_store.config import DatasetConfig, PastEvents
from feature_store.errors import BadDataError, ContractError
from feature_store.ingest_rejects import (
    UNREADABLE_FILE,
    Judgement,
    Reasons,
    check_shares,
    judge,
    place_undated,
    release,
    unreadable_rows,
)
from feature_store.schemas import LABELS, QUARANTINE, examples_schema, past_events_schema
from feature_store.session import lost_jvm
from feature_store.sources.expressions import lenient, part_column, resolve
from feature_store.sources.past import judged_past_events, require_same_ids
from feature_store.sources.pipeline import JudgedSource, judged_rows
from feature_store.sources.reader import RawSource, find_broken_files
from feature_store.sources.span import Span
from feature_store.world.source import world_span

log = logging.getLogger(__name__)
Result = TypeVar("Result")


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
        release(self.held)


def ingest_frames(
    spark: SparkSession, dataset: DatasetConfig, parts: list[str], *, examples: bool = True, past_events: bool = True
) -> IngestFrames:
    """Read, map and judge the rows of a contiguous range of partitions. Nothing is written.

    Args:
        examples: read the main source (off: examples and labels are empty).
        past_events: read the second source, where there is one.

    Raises:
        ContractError: a setting does not fit the source, or the parts are no contiguous range.
        BadDataError: a column is missing or has another type, or more is rejected than ``checks.max_reject_share``;
            raised before anything could be written.
    """
    if not parts or dataset.clock.between(parts[0], parts[-1]) != list(parts):
        raise ContractError(f"got partitions {parts}; allowed: one contiguous, ascending range")
    past = dataset.source.past_events if past_events else None
    with lenient(spark):
        frames = skipping_broken_files(
            spark, dataset, lambda skip: _Ingest(spark, dataset, parts, skip).frames(examples, past)
        )
    for warning in frames.warnings:
        log.warning("%s: %s", dataset.name, warning)
    return frames


def skipping_broken_files(
    spark: SparkSession, dataset: DatasetConfig, work: Callable[[frozenset[str]], Result]
) -> Result:
    """Do the work; should a file break while its rows are read, find all such files and do it again without them.

    Raises:
        BadDataError: Spark cannot read the source, and no single file is to blame.
    """
    try:
        return work(frozenset())
    except (PySparkException, Py4JError) as error:
        if lost_jvm(error) is not None:  # no file is to blame
            raise
        source = dataset.source
        reads = [read for read in (source.read, source.past_events and source.past_events.read) if read]
        broken = frozenset[str]().union(*(find_broken_files(spark, r) for r in reads if r.format != "delta"))
        if not broken:
            reason = str(error).strip().splitlines()[0]
            raise BadDataError(f"{dataset.name}: the source cannot be read: {reason}") from error
        return work(broken)


def source_parts(spark: SparkSession, dataset: DatasetConfig) -> tuple[str, str] | None:
    """First and last partition that hold examples; None where the source has no dated row."""
    if dataset.source.world is not None:
        start, end = world_span(dataset.source.world, dataset.clock)
        return dataset.clock.part_of(start), dataset.clock.part_of(end - 1)

    def ends(skip: frozenset[str]) -> tuple[int, int] | None:
        rows = judged_rows(spark, dataset, None, skip=skip, negatives=False).rows
        if rows is None:
            return None
        first, last = rows.where("reason is null").agg(F.min("event_ts"), F.max("event_ts")).collect()[0]
        return None if first is None else (first, last)

    with lenient(spark):
        found = skipping_broken_files(spark, dataset, ends)
    return found and (dataset.clock.part_of(found[0]), dataset.clock.part_of(found[1]))


class _Ingest:
    """One pass over the sources of a range."""

    def __init__(self, spark: SparkSession, dataset: DatasetConfig, parts: list[str], skip: frozenset[str]) -> None:
        self.spark, self.dataset, self.parts, self.skip = spark, dataset, parts, skip
        self.span = Span(dataset.clock.start(parts[0]), dataset.clock.end(parts[-1]))
        self.held: list[DataFrame] = []
        self.rejects: list[DataFrame] = []
        self.reasons: Reasons = Counter()
        self.accepted = 0
        self.raws: list[RawSource] = []
        self.main: JudgedSource | None = None

    def frames(self, read_examples: bool, past: PastEvents | None) -> IngestFrames:
        try:
            examples, labels = self._examples() if read_examples else self._nothing()
            past_events = self._past_events(past) if past is not None else None
            self._unreadable()
            check_shares(self.dataset, self.parts, self.accepted, self.reasons, self.raws)
        except BaseException:
            release(self.held)
            raise
        quarantine = self._empty(QUARANTINE)
        for reject in self.rejects:
            quarantine = quarantine.unionByName(reject)
        rejected: Counter[str] = Counter()
        for (part, _), count in self.reasons.items():
            rejected[part] += count
        warnings = [warning for raw in self.raws for warning in raw.warnings]
        return IngestFrames(examples, labels, past_events, quarantine, dict(rejected), warnings, self.held)

    def _examples(self) -> tuple[DataFrame, DataFrame]:
        self.main = judged_rows(self.spark, self.dataset, self.span, skip=self.skip)
        good = self._judge(
            self.main,
            lambda: judged_rows(self.spark, self.dataset, None, skip=self.skip, negatives=False),
            unique=True,
        )
        if good is None:
            return self._nothing()
        return _typed(good, examples_schema(self.dataset)), self._labels(good)

    def _labels(self, good: DataFrame) -> DataFrame:
        """One row per example and vertical whose filter it meets and whose label the row has."""
        verticals = self.dataset.verticals
        seen = good.select(*examples_schema(self.dataset).names)
        resolve(seen, {f"verticals.{n}.where": v.where for n, v in verticals.items() if v.where is not None})
        rows = F.array(*(_label_row(name, v.label, v.where) for name, v in verticals.items()))
        exploded = good.select("part", "example_id", F.inline(F.filter(rows, lambda row: row.isNotNull())))
        return _typed(exploded, LABELS)

    def _past_events(self, past: PastEvents) -> DataFrame:
        schema = past_events_schema(self.dataset)
        source = judged_past_events(self.spark, self.dataset, past, self.span, self.skip)
        if self.main is not None:
            require_same_ids(self.main, source)
        good = self._judge(
            source, lambda: judged_past_events(self.spark, self.dataset, past, None, self.skip), unique=False
        )
        if good is None:
            return self._empty(schema)
        keys = [name for name in schema.names if not name.startswith("label_")]
        labels = [F.max(f"label_{name}").alias(f"label_{name}") for name in self.dataset.labels]
        return _typed(good.groupBy(*keys).agg(*labels), schema)

    def _judge(self, source: JudgedSource, everything: Callable[[], JudgedSource], *, unique: bool) -> DataFrame | None:
        """Good rows of a source; the bad ones go to the rejects."""
        self.raws.append(source.raw)
        if source.rows is None:
            return None
        rows = source.rows.withColumn("part", part_column(self.dataset.clock, F.col("event_ts")))
        judged: Judgement = judge(
            rows, lambda undated: place_undated(undated, everything(), self.dataset, self.parts), unique=unique
        )
        self.held += judged.held
        self.accepted += judged.accepted
        self.reasons.update(judged.reasons)
        if judged.bad is not None:
            self.rejects.append(judged.bad)
        return judged.good

    def _unreadable(self) -> None:
        files = {path: why for raw in self.raws for path, why in raw.unreadable.items()}
        if files:
            self.rejects.append(unreadable_rows(self.spark, files, self.parts))
            self.reasons.update({(part, UNREADABLE_FILE): len(files) for part in self.parts})

    def _nothing(self) -> tuple[DataFrame, DataFrame]:
        return self._empty(examples_schema(self.dataset)), self._empty(LABELS)

    def _empty(self, schema: pa.Schema) -> DataFrame:
        return self.spark.createDataFrame([], from_arrow_schema(schema))


def _typed(frame: DataFrame, schema: pa.Schema) -> DataFrame:
    return frame.select(*(F.col(f.name).cast(f.dataType) for f in from_arrow_schema(schema)))


def _label_row(vertical: str, label: str, where: str | None) -> Column:
    value = F.col(f"label_{label}")
    row = F.struct(
        F.lit(vertical).alias("vertical"), value.alias("label"), F.col(f"known_{label}").alias("label_available_at")
    )
    meets = F.expr(where) if where is not None else F.lit(True)
    return F.when(value.isNotNull() & meets, row)
