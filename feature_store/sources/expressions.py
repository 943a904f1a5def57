"""Spark SQL from YAML as typed columns: ids, instants, labels and numbers, where what cannot be read becomes null."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from feature_store.clocks import DAY_MS, HOUR_MS, INSTANTS_END, INSTANTS_START, PartitionClock
from feature_store.errors import ContractError

_LENIENT = {"spark.sql.ansi.enabled": "false", "spark.sql.session.timeZone": "UTC"}


@contextmanager
def lenient(spark: SparkSession) -> Iterator[None]:
    """Columns built inside turn unreadable values into null (to be judged) instead of failing, and think in UTC.

    Spark fixes both settings in an expression when it is built, so frames keep this behaviour outside.
    """
    before = {name: str(spark.conf.get(name)) for name in _LENIENT}
    for name, value in _LENIENT.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)


def resolve(frame: DataFrame, fields: dict[str, str]) -> dict[str, T.DataType]:
    """Type of each field's SQL over the frame.

    Raises:
        ContractError: naming the field, its SQL, what is wrong with it and the columns there are.
    """
    try:
        schema = frame.select(*(F.expr(sql).alias(f"c{i}") for i, sql in enumerate(fields.values()))).schema
        return {name: schema[i].dataType for i, name in enumerate(fields)}
    except PySparkException:
        for name, sql in fields.items():
            _resolve_one(frame, name, sql)
        raise


def _resolve_one(frame: DataFrame, field: str, sql: str) -> None:
    try:
        _ = frame.select(F.expr(sql)).schema
    except PySparkException as error:
        reason = str(error).splitlines()[0].split(" SQLSTATE")[0]
        raise ContractError(
            f"{field}: {sql!r} does not fit the source: {reason} Its columns: {', '.join(frame.columns)}"
        ) from error


def id_column(value: Column, kind: T.DataType) -> Column:
    """int64 id: integers and booleans are kept, every other type is hashed by xxhash64; null and NaN stay null."""
    if isinstance(kind, T.IntegralType | T.BooleanType | T.NullType):
        return value.cast("long")
    if isinstance(kind, T.DecimalType) and kind.scale == 0:
        return value.cast("long")
    if isinstance(kind, T.FractionalType) and not isinstance(kind, T.DecimalType):
        return F.when(value.isNotNull() & ~F.isnan(value), F.xxhash64(value))
    return F.when(value.isNotNull(), F.xxhash64(value))


def same_ids(one: T.DataType, other: T.DataType) -> bool:
    """Whether ``id_column`` makes equal ids of equal values of two types."""
    kept = (T.IntegralType, T.BooleanType)
    whole = [isinstance(kind, kept) or (isinstance(kind, T.DecimalType) and kind.scale == 0) for kind in (one, other)]
    return T.NullType() in (one, other) or all(whole) or one == other


def id_list_column(value: Column, kind: T.DataType, field: str) -> Column:
    """array<int64> of ids; null elements are dropped.

    Raises:
        ContractError: the value is no array.
    """
    element = require_array(kind, field)
    return F.filter(F.transform(value, lambda e: id_column(e, element)), lambda e: e.isNotNull())


def require_array(kind: T.DataType, field: str) -> T.DataType:
    """Type of the elements.

    Raises:
        ContractError: it is no array.
    """
    if not isinstance(kind, T.ArrayType):
        raise ContractError(f"{field}: got type {kind.simpleString()}; allowed: an array, as it is a list feature")
    return kind.elementType


def instant_column(value: Column, kind: T.DataType, unit: str, field: str) -> Column:
    """Epoch milliseconds of an instant; null where it cannot be read or lies outside [INSTANTS_START, INSTANTS_END).

    Raises:
        ContractError: the type of the value does not fit the unit.
    """
    allowed = _units(kind)
    if unit not in allowed:
        raise ContractError(f"{field}: unit {unit} does not fit type {kind.simpleString()}; allowed: {allowed}")
    if unit in ("s", "ms"):
        # Judged as a double: a cast to long makes 0 of NaN and a date of an infinity, which would pass for instants.
        number = value.cast("double")
        rounded = F.round(number * 1000) if unit == "s" else number
        return F.when(_is_instant(rounded), (rounded if unit == "s" else value).cast("long"))
    millis = F.unix_millis(value.cast("timestamp"))
    return F.when(_is_instant(millis), millis)


def _is_instant(millis: Column) -> Column:
    """Null for null; NaN, which Spark holds for the largest number, is none."""
    return (millis >= INSTANTS_START) & (millis < INSTANTS_END)


def _units(kind: T.DataType) -> list[str]:
    if isinstance(kind, T.TimestampType | T.TimestampNTZType | T.DateType):
        return ["timestamp"]
    return ["iso", "s", "ms"] if isinstance(kind, T.StringType) else ["s", "ms"]


def part_column(clock: PartitionClock, instant: Column) -> Column:
    """Text of the partition that holds an instant: ``clock.part_of`` as a Spark column."""
    start = instant - F.pmod(instant - clock.offset_ms, F.lit(clock.grain_ms))
    pattern = "yyyy-MM-dd'T'HHmm"
    if clock.grain_ms == DAY_MS and clock.offset_ms == 0:
        pattern = "yyyy-MM-dd"
    elif clock.grain_ms % HOUR_MS == 0 and clock.offset_ms % HOUR_MS == 0:
        pattern = "yyyy-MM-dd'T'HH"
    return F.date_format(F.timestamp_millis(start), pattern)


def not_finite(value: Column) -> Column:
    """Whether a float is NaN or infinite (false for null)."""
    return F.coalesce(F.isnan(value) | (F.abs(value) == float("inf")), F.lit(False))
