"""Side tables joined on equal ids."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.config import JoinConfig
from feature_store.errors import BadDataError, ContractError
from feature_store.sources.expressions import resolve
from feature_store.sources.reader import read_source


def join_side_tables(spark: SparkSession, frame: DataFrame, joins: list[JoinConfig]) -> tuple[DataFrame, list[str]]:
    """Left joins, in declared order: a row without a match gets nulls.

    Returns:
        the frame, and the names of the columns that were added.

    Raises:
        ContractError: an id is no column, or a new name is taken.
        BadDataError: a side table is unreadable, or has an id twice, which would multiply rows.
    """
    added: list[str] = []
    for number, join in enumerate(joins):
        frame = _join(spark, frame, join, f"source.joins.{number}")
        added += join.columns
    return frame, added


def _join(spark: SparkSession, frame: DataFrame, join: JoinConfig, field: str) -> DataFrame:
    missing, taken = set(join.on) - set(frame.columns), set(join.columns) & set(frame.columns)
    if missing or taken:
        wrong = f"{sorted(missing)} are no columns" if missing else f"{sorted(taken)} are columns already"
        raise ContractError(f"{field}: {wrong} of the source: {', '.join(frame.columns)}")
    side = _side_table(spark, join, field)
    matches = [F.col(f"`{left}`") == F.col(f"_on_{i}") for i, left in enumerate(join.on)]
    return frame.join(side, matches, "left").drop(*(f"_on_{i}" for i in range(len(join.on))))


def _side_table(spark: SparkSession, join: JoinConfig, field: str) -> DataFrame:
    raw = read_source(spark, join.read, None)
    if raw.frame is None or raw.unreadable:
        raise BadDataError(
            f"{field}: side table {join.read.paths}: no readable file, or some that are not: {raw.unreadable}"
        )
    ids = [f"_on_{i}" for i in range(len(join.on))]
    declared = {f"{field}.on.{left}": right for left, right in join.on.items()}
    declared |= {f"{field}.columns.{name}": sql for name, sql in join.columns.items()}
    resolve(raw.frame, declared)
    side = raw.frame.select(
        *(F.expr(right).alias(name) for name, right in zip(ids, join.on.values(), strict=True)),
        *(F.expr(sql).alias(name) for name, sql in join.columns.items()),
    ).where(" and ".join(f"{name} is not null" for name in ids))
    repeated = side.groupBy(*ids).count().where("count > 1").count()
    if repeated:
        raise BadDataError(f"{field}: side table {join.read.paths} has {repeated} ids more than once; one row per id")
    return side
