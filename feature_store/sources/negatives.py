"""Negatives for click-only data, drawn by popularity strictly before the event.

The law. A positive at t lies in the bucket that starts at h. Let c_i be the source rows (after ``source.where``) that
hold item i in [h - window, h), w_i = c_i ** power where c_i > 0, and W the sum of w_i without the positive's own item.
The w_i, in ascending order of item, tile [0, W); the k points (u + j) W / k, j = 0 .. k - 1, with one uniform u per
positive, hit the drawn items; repeats are dropped. An item is thus drawn with chance exactly min(1, k w_i / W), which
is the row's rate (systematic sampling with chances proportional to size: Madow 1949). u is a hash of seed and row, so a
row's negatives depend on nothing but the rows strictly before its bucket: any range of partitions gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from feature_store.config import DatasetConfig, NegativeSampling
from feature_store.errors import ContractError
from feature_store.sources.expressions import instant_column, resolve
from feature_store.sources.mapping import POSITION_COLUMN, RATE_COLUMN
from feature_store.sources.span import Span

_BUCKET, _DRAW, _ITEMS, _RATES = "_bucket", "_draw", "_items", "_rates"


@dataclass(frozen=True)
class ItemCounts:
    """Rows per (bucket, item), sorted by bucket: bucket start [M], index into ``items`` [M], rows [M]."""

    bucket: npt.NDArray[np.int64]
    code: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    items: pa.Array


@dataclass(frozen=True)
class Eligible:
    """Items seen in the window before a bucket: their codes ascending [E] and the running sum of their weights [E]."""

    code: npt.NDArray[np.int64]
    upto: npt.NDArray[np.float64]


def lookback(span: Span | None, sampling: NegativeSampling | None) -> Span | None:
    """The span of rows that a span's negatives depend on."""
    if span is None or sampling is None:
        return span
    return Span(span.start // sampling.bucket * sampling.bucket - sampling.window, span.end)


def sample_negatives(
    frame: DataFrame, dataset: DatasetConfig, sampling: NegativeSampling, span: Span | None
) -> DataFrame:
    """Each source row, followed by its negatives: copies with another item.

    Args:
        frame: raw rows of ``lookback(span)``.

    Returns:
        the rows of ``span``, with ``_position`` (0: the positive) and ``_negative_rate``.

    Raises:
        ContractError: ``entities.item`` is no bare column, so that it cannot be replaced.
    """
    item = dataset.entities["item"]
    if item not in frame.columns:
        raise ContractError(f"entities.item: got {item!r}; with source.negatives it must be a column of the source")
    keys = {name: sql for name, sql in dataset.entities.items() if name != "item"}
    kinds = resolve(frame, {"event_ts.value": dataset.event_ts.value, **{f"entities.{n}": s for n, s in keys.items()}})
    event_ts = instant_column(
        F.expr(dataset.event_ts.value), kinds["event_ts.value"], dataset.event_ts.unit, "event_ts.value"
    )
    keyed = frame.withColumn("_event_ts", event_ts).withColumn(
        _BUCKET, F.col("_event_ts") - F.pmod(F.col("_event_ts"), F.lit(sampling.bucket))
    )
    counts = _count_items(keyed, item)
    within = keyed if span is None else keyed.where(F.col("_event_ts").isNull() | span.holds(F.col("_event_ts")))
    identity = [F.lit(sampling.seed), *(F.expr(sql) for sql in keys.values()), F.col(item), F.col("_event_ts")]
    positives = within.withColumn(_DRAW, F.xxhash64(*identity)).drop("_event_ts")
    tasks = positives.sparkSession.sparkContext.defaultParallelism
    ordered = positives.repartition(tasks, _BUCKET).sortWithinPartitions(_BUCKET)
    schema = T.StructType(
        [
            *positives.schema,
            T.StructField(_ITEMS, T.ArrayType(positives.schema[item].dataType)),
            T.StructField(_RATES, T.ArrayType(T.DoubleType())),
        ]
    )
    drawn = ordered.mapInArrow(_drawer(counts, item, sampling), schema)
    others = [name for name in frame.columns if name != item]
    rows = drawn.select(*others, F.posexplode(F.arrays_zip(_ITEMS, _RATES)).alias(POSITION_COLUMN, "_drawn"))
    return rows.select(
        *others,
        F.col("_drawn").getField(_ITEMS).alias(item),
        POSITION_COLUMN,
        F.col("_drawn").getField(_RATES).alias(RATE_COLUMN),
    )


def _count_items(keyed: DataFrame, item: str) -> ItemCounts:
    """Rows per (bucket, item); the one table that passes through the driver, as it is small beside the rows."""
    counted = keyed.where(F.col(item).isNotNull() & F.col(_BUCKET).isNotNull()).groupBy(_BUCKET, item).count()
    table = counted.toArrow().sort_by([(_BUCKET, "ascending")])
    column = table.column(item).combine_chunks()
    items = column.unique().sort()
    code = pc.index_in(column, value_set=items).to_numpy(zero_copy_only=False).astype(np.int64)
    return ItemCounts(table.column(_BUCKET).to_numpy(), code, table.column("count").to_numpy(), items)


def _drawer(
    counts: ItemCounts, item: str, sampling: NegativeSampling
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def draw(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        at, eligible = None, _eligible(counts, 0, sampling)
        for batch in batches:
            bucket = batch.column(_BUCKET).fill_null(0).to_numpy()
            uniform = uniform_of(batch.column(_DRAW).to_numpy())
            own = pc.index_in(batch.column(item), value_set=counts.items).fill_null(-1).to_numpy().astype(np.int64)
            codes = np.full((len(bucket), sampling.per_positive), -1, dtype=np.int64)
            rates = np.ones((len(bucket), sampling.per_positive))
            for start, rows in _runs(bucket):
                if start != at:
                    at, eligible = start, _eligible(counts, start, sampling)
                codes[rows], rates[rows] = draw_items(eligible, own[rows], uniform[rows], sampling.per_positive)
            yield _with_draws(batch, item, codes, rates, counts.items)

    return draw


def _runs(bucket: npt.NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    edges = [0, *(np.flatnonzero(np.diff(bucket)) + 1), len(bucket)]
    for first, stop in pairwise(edges):
        if stop > first:
            yield int(bucket[first]), slice(first, stop)


def _eligible(counts: ItemCounts, start: int, sampling: NegativeSampling) -> Eligible:
    first, stop = np.searchsorted(counts.bucket, [start - sampling.window, start])
    seen = np.bincount(counts.code[first:stop], weights=counts.rows[first:stop], minlength=1)
    code = np.flatnonzero(seen)
    return Eligible(code, np.cumsum(seen[code] ** sampling.power).astype(np.float64))


def uniform_of(draw: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) from 64-bit hashes."""
    return (draw.view(np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_items(
    eligible: Eligible, own: npt.NDArray[np.int64], uniform: npt.NDArray[np.float64], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Systematic draw of up to k items for each of n positives of one bucket.

    Args:
        own: code of each positive's item (-1: never seen) [n].
        uniform: one number in [0, 1) each [n].

    Returns:
        codes [n, k], -1 where there is none, and the chance of each [n, k].
    """
    if not len(eligible.code):
        return np.full((len(own), k), -1), np.ones((len(own), k))
    last = len(eligible.code) - 1
    weight = np.diff(eligible.upto, prepend=0.0)
    place = np.minimum(np.searchsorted(eligible.code, own), last)
    mine = eligible.code[place] == own
    gap = np.where(mine, weight[place], 0.0)
    rest = eligible.upto[-1] - gap
    points = (uniform[:, None] + np.arange(k)) / k * rest[:, None]
    after_mine = mine[:, None] & (points >= (eligible.upto[place] - gap)[:, None])
    index = np.searchsorted(eligible.upto, points + np.where(after_mine, gap[:, None], 0.0), side="right")
    index = _off_own(np.minimum(index, last), place, mine, last)
    chance = np.minimum(1.0, k * weight[index] / np.where(rest > 0, rest, 1.0)[:, None])
    drawn = np.broadcast_to((rest > 0)[:, None], index.shape).copy()
    drawn[:, 1:] &= index[:, 1:] != index[:, :-1]
    return np.where(drawn, eligible.code[index], -1), chance


def _off_own(
    index: npt.NDArray[np.int64], place: npt.NDArray[np.int64], mine: npt.NDArray[np.bool_], last: int
) -> npt.NDArray[np.int64]:
    """Rounding at a border may land on the positive's own item: its neighbour is meant."""
    neighbour = np.where(place < last, place + 1, np.maximum(place - 1, 0))
    return np.where(mine[:, None] & (index == place[:, None]), neighbour[:, None], index)


def _with_draws(
    batch: pa.RecordBatch, item: str, codes: npt.NDArray[np.int64], rates: npt.NDArray[np.float64], items: pa.Array
) -> pa.RecordBatch:
    """The batch with two lists a row: items (the positive's first) and their rates."""
    drawn = codes >= 0
    offsets = np.concatenate([[0], np.cumsum(1 + drawn.sum(axis=1))]).astype(np.int32)
    flat_rates = np.ones(offsets[-1])
    pick = np.arange(offsets[-1])
    is_negative = np.ones(offsets[-1], dtype=bool)
    is_negative[offsets[:-1]] = False
    pick[offsets[:-1]] = np.arange(len(codes))
    pick[is_negative] = len(codes) + np.arange(drawn.sum())
    flat_rates[is_negative] = rates[drawn]
    values = pa.concat_arrays(
        [batch.column(item), items.take(pa.array(codes[drawn])).cast(batch.schema.field(item).type)]
    )
    lists = [
        pa.ListArray.from_arrays(pa.array(offsets), values.take(pa.array(pick))),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat_rates)),
    ]
    return pa.RecordBatch.from_arrays([*batch.columns, *lists], names=[*batch.schema.names, _ITEMS, _RATES])
