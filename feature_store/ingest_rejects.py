"""What an ingest rejects: duplicates, undated rows, unreadable files; and when it is too much."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from feature_store.config import DatasetConfig
from feature_store.errors import BadDataError
from feature_store.schemas import QUARANTINE
from feature_store.sources.pipeline import JudgedSource
from feature_store.sources.reader import FILE_COLUMN, RawSource

UNREADABLE_FILE = "unreadable file"
DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Duplicates:
    """Rows kept, rows that repeat a kept one, the held frame both read, and the repeats by (part, reason)."""

    kept: DataFrame
    repeated: DataFrame
    held: DataFrame
    counts: dict[tuple[str, str], int]


def drop_duplicates(good: DataFrame, judged: DataFrame) -> Duplicates | None:
    """Keep one row per example_id: the earliest to arrive, then the smallest by a hash of its content.

    Repeats are rare, so they are counted on the id alone, and only rows that have one are sorted.

    Args:
        good: accepted rows, held.
        judged: the same rows from the source, with ``_source``.

    Returns:
        None where nothing repeats.
    """
    repeats = good.groupBy("example_id", "part").count().where("count > 1")
    counts = {
        (row[0], DUPLICATE): int(row[1]) for row in repeats.groupBy("part").agg(F.expr("sum(count - 1)")).collect()
    }
    if not counts:
        return None
    ids = F.broadcast(repeats.select("example_id"))
    suspects = judged.where("reason is null").join(ids, "example_id", "left_semi")
    content = F.xxhash64(*(F.col(name) for name in good.columns if name not in ("reason", "row", FILE_COLUMN)))
    order = Window.partitionBy("example_id").orderBy("arrived_at", content, FILE_COLUMN)
    json = F.to_json("_source", {"ignoreNullFields": "false"})
    ranked = suspects.withColumn("_rank", F.row_number().over(order)).withColumn("row", json).drop("_source").persist()
    once = good.join(ids, "example_id", "left_anti")
    first = ranked.where("_rank = 1").withColumn("row", F.lit(None).cast("string")).select(*good.columns)
    repeated = ranked.where("_rank > 1").withColumn("reason", F.lit(DUPLICATE))
    return Duplicates(once.select(*good.columns).unionByName(first), repeated, ranked, counts)


def place_undated(undated: DataFrame, everything: JudgedSource, dataset: DatasetConfig, parts: list[str]) -> DataFrame:
    """Undated rows whose place, the partition of the first dated row of their file, is among ``parts``.

    Raises:
        BadDataError: the source has no dated row at all.
    """
    files = [row[0] for row in undated.select(FILE_COLUMN).distinct().collect()]
    if everything.raw.file_part is not None:
        place = {file: everything.raw.file_part(file) for file in files}
    elif everything.rows is not None:
        place = _first_parts(everything.rows, dataset, files)
    here = {file: part for file, part in place.items() if part in parts}
    spark = undated.sparkSession
    places = spark.createDataFrame(sorted(here.items()), f"{FILE_COLUMN} string, part string")
    return undated.join(F.broadcast(places), FILE_COLUMN)


def _first_parts(rows: DataFrame, dataset: DatasetConfig, files: list[str]) -> dict[str, str]:
    dated = rows.where(F.col("event_ts").isNotNull())
    of_files = dated.where(F.col(FILE_COLUMN).isin(files)).groupBy(FILE_COLUMN).agg(F.min("event_ts"))
    first = {row[0]: row[1] for row in of_files.collect()}
    if len(first) < len(files):
        row = dated.agg(F.min("event_ts")).first()
        if row is None or row[0] is None:
            raise BadDataError(f"{dataset.name}: event_ts: no row of the source has a readable event time")
        first = {file: first.get(file, row[0]) for file in files}
    return {file: dataset.clock.part_of(instant) for file, instant in first.items()}


def rejected_rows(rows: DataFrame) -> DataFrame:
    """Rows in the shape of the quarantine table."""
    return rows.select(*QUARANTINE.names)


def unreadable_rows(spark: SparkSession, files: dict[str, str], parts: list[str]) -> DataFrame:
    """One quarantine row per partition and unreadable file; ``row`` holds why it cannot be read."""
    rows = [(part, UNREADABLE_FILE, path, why) for part in parts for path, why in sorted(files.items())]
    return spark.createDataFrame(rows, from_arrow_schema(QUARANTINE))


def check_shares(
    dataset: DatasetConfig, parts: list[str], accepted: int, reasons: Counter[tuple[str, str]], raws: list[RawSource]
) -> None:
    """Fail where more rows, or more files, are rejected than the data set tolerates.

    Raises:
        BadDataError: with the counts per reason, or the files.
    """
    most = dataset.checks.max_reject_share
    advice = "correct the source, or raise checks.max_reject_share if this is expected"
    by_reason: Counter[str] = Counter()
    for (_, reason), count in reasons.items():
        by_reason[reason] += count if reason != UNREADABLE_FILE else 0
    bad = by_reason.total()
    if bad > most * (bad + accepted):
        counts = ", ".join(f"{reason} {count}" for reason, count in by_reason.most_common() if count)
        raise BadDataError(
            f"{dataset.name}: {bad} of {bad + accepted} rows of {parts[0]}..{parts[-1]} would be rejected, allowed are "
            f"{most:.1%}: {counts}; {advice}"
        )
    for raw in raws:
        if len(raw.unreadable) > most * raw.files:
            files = "; ".join(f"{path} ({why})" for path, why in sorted(raw.unreadable.items())[:5])
            raise BadDataError(
                f"{dataset.name}: {len(raw.unreadable)} of {raw.files} files cannot be read, allowed are {most:.1%}: "
                f"{files}; {advice}"
            )
