"""A stretch of event time, and reading no more of a source than lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

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
        bounds = _raw_bounds(span, kind, instant.unit)
        if bounds is not None:
            raw = F.col(instant.value)
            frame = frame.where(raw.isNull() | ((raw >= bounds[0]) & (raw < bounds[1])))
    return frame.where(parsed.isNull() | span.holds(parsed))


def _raw_bounds(span: Span, kind: T.DataType, unit: str) -> tuple[Column, Column] | None:
    edges = (span.start, span.end)
    if isinstance(kind, T.IntegralType):
        scale = 1000 if unit == "s" else 1
        low, high = (F.lit(-(-edge // scale)).cast(kind) for edge in edges)
        return low, high
    if isinstance(kind, T.TimestampType | T.TimestampNTZType):
        texts = (datetime.fromtimestamp(edge / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S.%f") for edge in edges)
        prefix = "TIMESTAMP_NTZ" if isinstance(kind, T.TimestampNTZType) else "TIMESTAMP"
        low, high = (F.expr(f"{prefix}'{text}'") for text in texts)
        return low, high
    return None
