"""Good and bad rows of an ingest: each bad one with its reason and partition, and an error where they are too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from feature_store.config import DatasetConfig
from feature_store.errors import BadDataError
from feature_store.repeats import CORRECTED, DUPLICATE, content_of, repeated_ids, set_repeats_aside
from feature_store.schemas import QUARANTINE
from feature_store.sources.pipeline import JudgedSource
from feature_store.sources.reader import FILE_COLUMN, RawSource

UNREADABLE_FILE = "unreadable file"
NOT_BAD = frozenset({UNREADABLE_FILE, CORRECTED})
"""Reasons that ``checks.max_reject_share`` does not count among bad rows: files have a share of their own."""
Reasons = Counter[tuple[str, str]]


@dataclass
class Judgement:
    """Good rows, bad rows in the shape of the quarantine table, their number by (part, reason), and what is cached."""

    good: DataFrame
    bad: DataFrame | None
    accepted: int
    reasons: Reasons
    held: list[DataFrame] = field(default_factory=list)


def judge(rows: DataFrame, place: Callable[[DataFrame], DataFrame], *, unique: bool) -> Judgement:
    """Part judged rows into good and bad.

    Bad rows are few: the held rows carry no source row, and the bad ones are read once more to be written out in full.

    Args:
        rows: mapped rows with ``part`` (null: undated), ``reason`` and ``_source``.
        place: gives undated rows their part, and drops those of other ranges.
        unique: one row per example_id is kept, see ``repeats.set_repeats_aside``.
    """
    held = rows.drop("_source").persist(StorageLevel.MEMORY_AND_DISK)
    judged = Judgement(held.where("reason is null"), None, 0, Counter(), [held])
    try:
        counts = held.groupBy(F.col("reason").isNull()).count().collect()
        found = {row[0]: row[1] for row in counts}
        judged.accepted = found.get(True, 0)
        repeats = _repeated_ids(judged) if unique else None
        if repeats is not None or False in found:
            _set_aside(judged, rows, place, repeats)
    except BaseException:
        release(judged.held)
        raise
    return judged


def release(held: list[DataFrame]) -> None:
    """Give cached frames back."""
    for frame in held:
        frame.unpersist()
    held.clear()


def _repeated_ids(judged: Judgement) -> DataFrame | None:
    """Ids that more than one good row has; None where there are none, which is the rule."""
    repeats = repeated_ids(judged.good).persist()
    judged.held.append(repeats)
    return repeats if repeats.count() else None


def _set_aside(
    judged: Judgement, rows: DataFrame, place: Callable[[DataFrame], DataFrame], repeats: DataFrame | None
) -> None:
    odd = rows.where("reason is not null")
    if repeats is not None:
        again = rows.where("reason is null").join(F.broadcast(repeats), "example_id", "left_semi")
        odd = odd.unionByName(set_repeats_aside(again, content_of(rows)))
    json = F.to_json("_source", {"ignoreNullFields": "false"})
    odd = odd.withColumn("row", F.when(F.col("reason").isNotNull(), json)).drop("_source").persist()
    judged.held.append(odd)
    if repeats is not None:
        once = judged.good.join(F.broadcast(repeats), "example_id", "left_anti")
        judged.good = once.unionByName(odd.where("reason is null").select(once.columns))
    judged.bad = _placed(odd.where("reason is not null"), place)
    judged.reasons.update({(r[0], r[1]): r[2] for r in judged.bad.groupBy("part", "reason").count().collect()})
    repeated = (DUPLICATE, CORRECTED)
    judged.accepted -= sum(count for (_, reason), count in judged.reasons.items() if reason in repeated)


def _placed(bad: DataFrame, place: Callable[[DataFrame], DataFrame]) -> DataFrame:
    dated = bad.where("part is not null").select(*QUARANTINE.names)
    undated = bad.where("part is null").drop("part")
    if undated.isEmpty():
        return dated
    return dated.unionByName(place(undated).select(*QUARANTINE.names))


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
    here = sorted((file, part) for file, part in place.items() if part in parts)
    places = undated.sparkSession.createDataFrame(here, f"{FILE_COLUMN} string, part string")
    return undated.join(F.broadcast(places), FILE_COLUMN)


def _first_parts(rows: DataFrame, dataset: DatasetConfig, files: list[str]) -> dict[str, str]:
    dated = rows.where(F.col("event_ts").isNotNull())
    of_files = dated.where(F.col(FILE_COLUMN).isin(files)).groupBy(FILE_COLUMN).agg(F.min("event_ts"))
    first = {row[0]: row[1] for row in of_files.collect()}
    if len(first) < len(files):
        earliest = dated.agg(F.min("event_ts")).collect()[0][0]
        if earliest is None:
            raise BadDataError(f"{dataset.name}: event_ts: no row of the source has a readable event time")
        first = {file: first.get(file, earliest) for file in files}
    return {file: dataset.clock.part_of(instant) for file, instant in first.items()}


def unreadable_rows(spark: SparkSession, files: dict[str, str], parts: list[str]) -> DataFrame:
    """One quarantine row per partition and unreadable file; ``row`` holds why it cannot be read."""
    rows = [(part, UNREADABLE_FILE, path, why) for part in parts for path, why in sorted(files.items())]
    return spark.createDataFrame(rows, from_arrow_schema(QUARANTINE))


def check_shares(
    dataset: DatasetConfig, parts: list[str], accepted: int, reasons: Reasons, raws: list[RawSource]
) -> None:
    """Fail where more rows, or more files, are rejected than the data set tolerates.

    Raises:
        BadDataError: with the counts per reason, or the files.
    """
    most = dataset.checks.max_reject_share
    advice = "correct the source, or raise checks.max_reject_share if this is expected"
    by_reason: Counter[str] = Counter()
    for (_, reason), count in reasons.items():
        by_reason[reason] += count if reason not in NOT_BAD else 0
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
