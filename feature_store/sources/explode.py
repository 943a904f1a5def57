"""Lists of a source row to rows of their own."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from feature_store.config import ExplodeConfig
from feature_store.errors import ContractError


def explode_column(frame: DataFrame, explode: ExplodeConfig) -> DataFrame:
    """One row per element; a row whose list is null or empty stays, without an element, to be judged.

    Raises:
        ContractError: no such column, no list, or the new names are taken.
    """
    _require_lists(frame, [explode.column], "source.explode.column")
    taken = {explode.name, explode.position} & set(frame.columns)
    if taken:
        raise ContractError(f"source.explode: {sorted(taken)} are columns of the source already; use other names")
    return frame.select("*", F.posexplode_outer(explode.column).alias(explode.position, explode.name))


def explode_together(frame: DataFrame, columns: list[str]) -> DataFrame:
    """One row per place in lists of equal length; the columns keep their names and hold the element."""
    _require_lists(frame, columns, "source.past_events.explode")
    others = [name for name in frame.columns if name not in columns]
    zipped = frame.select(*others, F.explode_outer(F.arrays_zip(*columns)).alias("_element"))
    return zipped.select(*others, *(F.col("_element").getField(name).alias(name) for name in columns))


def _require_lists(frame: DataFrame, columns: list[str], field: str) -> None:
    for column in columns:
        if column not in frame.columns or not isinstance(frame.schema[column].dataType, T.ArrayType):
            lists = [f.name for f in frame.schema if isinstance(f.dataType, T.ArrayType)]
            raise ContractError(f"{field}: got {column!r}; allowed: a list column of the source: {lists}")
