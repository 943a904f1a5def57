"""How a key composed of columns becomes one id, the same in every table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F


def key_id_column(columns: Sequence[str]) -> Column:
    """Id of a key: the value itself for one column, else Spark's xxhash64 of the columns in declared order.

    Null where any of the columns is null: such a row belongs to no key.
    """
    if len(columns) == 1:
        return F.col(columns[0]).cast("long")
    missing = reduce(lambda left, right: left | right, [F.col(name).isNull() for name in columns])
    return F.when(~missing, F.xxhash64(*[F.col(name).cast("long") for name in columns]))
