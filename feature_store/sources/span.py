"""A stretch of event time, and reading no more of a source than lies in it."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from feature_store.clocks import INSTANTS_END, INSTANTS_START
from feature_store.config import InstantColumn
from feature_store.sources.expressions import instant_column, resolve


@dataclass(frozen=True)
class Span:
    """[start, end) in epoch milliseconds."""

    start: int
    end: int

    def holds(self, instant: Column) -> Column:
        """Whether an instant lies within; null where the instant is null."""
        return (instant >= self.start) & (instant < self.end)


def restrict(frame: DataFrame, instant: InstantColumn, span: Span | None, field: str) -> DataFrame:
    """Rows within the span, and those without a readable instant, which are to be judged.

    Where the instant is a bare column the bounds are put on that column itself, so that Parquet skips row groups.
    """
    if span is None:
        return frame
    kind = resolve(frame, {field: instant.value})[field]
    parsed = instant_column(F.expr(instant.value), kind, instant.unit, field)
    if instant.value in frame.columns:
        within = _raw_filter(F.col(instant.value), span, kind, instant.unit)
        frame = frame if within is None else frame.where(within)
    return frame.where(parsed.isNull() | span.holds(parsed))


def _raw_filter(raw: Column, span: Span, kind: T.DataType, unit: str) -> Column | None:
    """The rows of ``restrict`` by the column's own values; None where its type does not order as its instants do."""
    edges = (span.start, span.end, INSTANTS_START, INSTANTS_END)
    if isinstance(kind, T.IntegralType):
        start, end, first, last = (F.lit(-(-edge // (1000 if unit == "s" else 1))).cast("long") for edge in edges)
    elif isinstance(kind, T.TimestampType | T.TimestampNTZType):
        start, end, first, last = (F.timestamp_millis(F.lit(edge)).cast(kind) for edge in edges)
    else:
        return None
    return raw.isNull() | (raw < first) | (raw >= last) | ((raw >= start) & (raw < end))
