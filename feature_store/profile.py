"""Profile of a source for ``loopfm check``: what is there, and what an ingest would reject and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.config import DatasetConfig
from feature_store.ingest import skipping_broken_files
from feature_store.ingest_rejects import NOT_BAD, UNREADABLE_FILE
from feature_store.repeats import CORRECTED, DUPLICATE, content_of, repeated_ids, set_repeats_aside
from feature_store.schemas import examples_schema
from feature_store.sources.expressions import lenient, resolve
from feature_store.sources.mapping import SOURCE_COLUMN
from feature_store.sources.past import judged_past_events, require_same_ids
from feature_store.sources.pipeline import JudgedSource, judged_rows
from feature_store.sources.reader import RawSource
from feature_store.sources.span import Span


@dataclass(frozen=True)
class LabelProfile:
    """A vertical's labelled rows, its positives and how long after the event a label is known (ms, mean)."""

    vertical: str
    label: str
    rows: int
    positives: int
    delay_ms: float

    @property
    def rate(self) -> float:
        """Share of positives; 0 where no row is labelled."""
        return self.positives / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class ColumnProfile:
    """A column of the accepted rows; ``distinct`` is approximate (5 %), for ids; ``low`` and ``high`` for numbers.

    ``distinct``, ``low`` and ``high`` are also of duplicates and corrected rows, which ``nulls`` leaves out; all leave
    out bad rows.
    """

    name: str
    kind: str
    nulls: int
    distinct: int | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Profile:
    """What ``loopfm check`` prints. Rows count the source's own, before any negative is sampled."""

    name: str
    files: int
    accepted: int
    reasons: dict[str, int]
    first: int | None
    last: int | None
    parts: tuple[str, str] | None
    late: int
    labels: list[LabelProfile]
    columns: list[ColumnProfile]
    past_events: int | None
    max_reject_share: float
    unreadable: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        """Rows that repeat an earlier one."""
        return self.reasons.get(DUPLICATE, 0)

    @property
    def rejected(self) -> int:
        """Bad rows: they would go to quarantine. Unreadable files and corrected rows are no bad rows."""
        return sum(count for reason, count in self.reasons.items() if reason not in NOT_BAD)

    def __str__(self) -> str:
        sections = [self._head(), self._labels(), self._columns(), self._rejects()]
        return "\n\n".join("\n".join(lines) for lines in sections if lines)

    def _head(self) -> list[str]:
        lines = [
            f"{self.name}: {self.accepted:,} good rows in {self.files:,} files"
            if self.files
            else f"{self.name}: {self.accepted:,} good rows"
        ]
        if self.parts is not None:
            lines.append(
                f"  events {_time(self.first)} .. {_time(self.last)}, partitions {self.parts[0]} .. {self.parts[1]}"
            )
            lines.append(f"  late rows (arrived in a later partition than their event's) {self.late:,}")
        if self.past_events is not None:
            lines.append(f"  past events of the second source {self.past_events:,}")
        return lines

    def _labels(self) -> list[str]:
        rows = [
            (p.vertical, p.label, f"{p.rows:,}", f"{p.positives:,}", f"{p.rate:.4f}", f"{p.delay_ms / 60_000:,.0f} min")
            for p in self.labels
        ]
        return _table(("vertical", "label", "rows", "positives", "rate", "known after (mean)"), rows)

    def _columns(self) -> list[str]:
        total = max(1, self.accepted)
        rows = [
            (
                c.name,
                c.kind,
                f"{c.nulls / total:.2%}",
                "" if c.distinct is None else f"~{c.distinct:,}",
                "" if c.low is None else f"{c.low:g} .. {c.high:g}",
            )
            for c in self.columns
        ]
        repeats = sum(self.reasons.get(reason, 0) for reason in (DUPLICATE, CORRECTED))
        too = [f"  distinct and range are also of {repeats:,} duplicates and corrected rows"] if repeats else []
        return _table(("column", "kind", "nulls", "distinct", "range"), rows) + too

    def _rejects(self) -> list[str]:
        share = self.rejected / max(1, self.rejected + self.accepted)
        lines = [f"quarantine: {self.rejected:,} rows ({share:.3%}; allowed {self.max_reject_share:.1%})"]
        lines += [f"  {reason:<40} {count:,}" for reason, count in sorted(self.reasons.items(), key=lambda r: -r[1])]
        lines += [f"  {UNREADABLE_FILE}: {path} ({why})" for path, why in sorted(self.unreadable.items())]
        return lines + [f"warning: {warning}" for warning in self.warnings]


def profile(spark: SparkSession, dataset: DatasetConfig, parts: list[str] | None = None) -> Profile:
    """Read the source once, and once more for duplicates; nothing is written.

    Args:
        parts: only events of this contiguous range (default: the whole source).

    Raises:
        ContractError: a setting does not fit the source.
        BadDataError: a column is missing or has another type, or no file can be read.
    """
    with lenient(spark):
        return skipping_broken_files(spark, dataset, lambda skip: _profile(spark, dataset, skip, parts))


def _profile(spark: SparkSession, dataset: DatasetConfig, skip: frozenset[str], parts: list[str] | None) -> Profile:
    clock = dataset.clock
    span = Span(clock.start(parts[0]), clock.end(parts[-1])) if parts else None
    source = judged_rows(spark, dataset, span, skip=skip, negatives=False)
    good: dict[str, Any] = {}
    reasons: dict[str, int] = {}
    if source.rows is not None:
        counts = _counts(dataset, source.rows)
        for row in source.rows.groupBy("reason").agg(*counts, *_ranges(dataset)).collect():
            if row["reason"] is None:
                good = row.asDict()
            else:
                reasons[row["reason"]] = row["rows"]
        for row in _repeats(source.rows).groupBy("reason").agg(*counts).collect():
            aside = row.asDict()
            reasons[aside.pop("reason")] = aside["rows"]
            good |= {name: good[name] - (count or 0) for name, count in aside.items() if good[name] is not None}
    raws = [source.raw]
    past = _past_events(spark, dataset, skip, reasons, source, raws)
    first, last = good.get("first"), good.get("last")
    return Profile(
        name=dataset.name,
        files=source.raw.files,
        accepted=good.get("rows", 0),
        reasons=reasons,
        first=first,
        last=last,
        parts=None if first is None or last is None else (clock.part_of(first), clock.part_of(last)),
        late=good.get("late", 0),
        labels=[_label_profile(name, v.label, good) for name, v in dataset.verticals.items()],
        columns=[_column_profile(name, kind, good) for name, kind in _kinds(dataset).items()],
        past_events=past,
        max_reject_share=dataset.checks.max_reject_share,
        unreadable={path: why for raw in raws for path, why in raw.unreadable.items()},
        warnings=[warning for raw in raws for warning in raw.warnings],
    )


def _kinds(dataset: DatasetConfig) -> dict[str, str]:
    columns = {name: "entity" for name in dataset.entities}
    columns |= {name: column.kind for name, column in dataset.event_features.items()}
    return columns | {"weight": "weight", "sampling_rate": "rate"}


def _counts(dataset: DatasetConfig, rows: DataFrame) -> list[Column]:
    """Sums over rows, by name: what rows that are set aside add to them can be taken off again."""
    grain, offset = dataset.clock.grain_ms, dataset.clock.offset_ms
    part = {name: F.floor((F.col(name) - offset) / grain) for name in ("event_ts", "arrived_at")}
    found = {"rows": F.count(F.lit(1)), "late": F.count_if(part["arrived_at"] > part["event_ts"])}
    found |= {f"nulls.{name}": F.count_if(F.col(name).isNull()) for name in _kinds(dataset)}
    seen = rows.select(*(n for n in examples_schema(dataset).names if n != "part"))
    wheres = {f"verticals.{n}.where": v.where for n, v in dataset.verticals.items() if v.where is not None}
    resolve(seen, wheres)
    for name, vertical in dataset.verticals.items():
        label = F.col(f"label_{vertical.label}")
        labelled = label.isNotNull() & (F.expr(vertical.where) if vertical.where is not None else F.lit(True))
        found[f"labelled.{name}"] = F.count_if(labelled)
        found[f"positives.{name}"] = F.count_if(labelled & (label == 1))
        found[f"delay.{name}"] = F.sum(F.when(labelled, F.col(f"known_{vertical.label}") - F.col("event_ts")))
    return [column.alias(name) for name, column in found.items()]


def _ranges(dataset: DatasetConfig) -> list[Column]:
    """Ends and distinct values, by name."""
    found = {"first": F.min("event_ts"), "last": F.max("event_ts")}
    for name, kind in _kinds(dataset).items():
        if kind in ("entity", "categorical"):
            found[f"distinct.{name}"] = F.approx_count_distinct(name)
        elif not kind.endswith("list"):
            found[f"low.{name}"], found[f"high.{name}"] = F.min(name), F.max(name)
    return [column.alias(name) for name, column in found.items()]


def _repeats(rows: DataFrame) -> DataFrame:
    """Good rows that are set aside because another one tells the same example, with the reason."""
    good = rows.where("reason is null").drop(SOURCE_COLUMN)
    again = good.join(F.broadcast(repeated_ids(good)), "example_id", "left_semi")
    return set_repeats_aside(again, content_of(good)).where("reason is not null")


def _past_events(
    spark: SparkSession,
    dataset: DatasetConfig,
    skip: frozenset[str],
    reasons: dict[str, int],
    examples: JudgedSource,
    raws: list[RawSource],
) -> int | None:
    """Past events accepted; their rejects join ``reasons``."""
    past = dataset.source.past_events
    if past is None:
        return None
    source = judged_past_events(spark, dataset, past, None, skip)
    require_same_ids(examples, source)
    raws.append(source.raw)
    if source.rows is None:
        return 0
    counts = source.rows.groupBy("reason").agg(F.count(F.lit(1)), F.countDistinct("example_id")).collect()
    reasons |= {row[0]: row[1] for row in counts if row[0] is not None}
    return next((int(row[2]) for row in counts if row[0] is None), 0)


def _label_profile(vertical: str, label: str, good: dict[str, Any]) -> LabelProfile:
    rows, positives = good.get(f"labelled.{vertical}", 0), good.get(f"positives.{vertical}", 0)
    return LabelProfile(vertical, label, rows, positives, (good.get(f"delay.{vertical}") or 0) / max(1, rows))


def _column_profile(name: str, kind: str, good: dict[str, Any]) -> ColumnProfile:
    low, high = good.get(f"low.{name}"), good.get(f"high.{name}")
    return ColumnProfile(name, kind, good.get(f"nulls.{name}", 0), good.get(f"distinct.{name}"), low, high)


def _table(header: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in [tuple(header), *rows]) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [tuple(header), *rows]
    ]


def _time(instant: int | None) -> str:
    return "-" if instant is None else datetime.fromtimestamp(instant / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
