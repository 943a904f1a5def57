"""Histories: the newest L tokens of a key as of an instant, merged from segments.

Every distinct (key id, horizon) that some example of a partition reads is one row, shared by all its examples and
verticals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from feature_store.config import DatasetConfig
from feature_store.key_stream import BATCH_TOKENS, CELLS, key_changes, key_chunks, repeated
from feature_store.newest import AsOf, batches_of, newest_as_of
from feature_store.schemas import HISTORIES, SEGMENTS
from feature_store.token_columns import as_of_column, check_space, key_columns
from feature_store.tokens import Tokens, pack, unpack

if TYPE_CHECKING:
    from feature_store.spaces import SpaceRecord

Batches = Iterator[pa.RecordBatch]


def segment_parts(dataset: DatasetConfig, parts: list[str]) -> list[str]:
    """Partitions whose segments the histories of the contiguous ``parts`` may read: bounded by the retention."""
    return dataset.clock.between(*segment_span(dataset, min(parts), max(parts)))


def segment_span(dataset: DatasetConfig, first: str, last: str) -> tuple[str, str]:
    """First and last of the partitions whose segments the histories of ``first`` .. ``last`` may read."""
    clock, histories = dataset.clock, dataset.history_clock
    oldest = histories.horizon(clock.start(first)) - dataset.histories.retention
    newest = histories.newest_event(last)
    return clock.part_of(oldest), clock.part_of(max(oldest, newest))


def history_requests(dataset: DatasetConfig, examples: DataFrame, space: SpaceRecord | None) -> DataFrame:
    """Distinct (part, key, key_id, as_of) that ``examples`` read; none before the space's tokens may be read."""
    keys = key_columns(dataset)
    pairs = F.explode(F.array(*(F.struct(F.lit(n[4:]).alias("key"), c.alias("key_id")) for n, c in keys.items())))
    rows = examples.select("part", as_of_column(dataset, space).alias("as_of"), pairs.alias("pair"))
    known = rows.where("as_of IS NOT NULL AND pair.key_id IS NOT NULL")
    return known.select("part", "pair.key", "pair.key_id", "as_of").distinct()


def histories_frame(
    spark: SparkSession, dataset: DatasetConfig, space_id: str, segments: DataFrame, requests: DataFrame
) -> DataFrame:
    """Histories (schema histories), one row per request whose key has a token.

    A request reads the newest L tokens of its key with arrival_end <= as_of and event_ts >= as_of - retention.

    Args:
        spark: the session that both frames belong to.
        dataset: names L and the retention.
        space_id: space of ``segments``.
        segments: at least the partitions of ``segment_parts``.
        requests: distinct part, key, key_id, as_of.

    Raises:
        MixedSpacesError: ``segments`` hold another space.
    """
    check_space(segments, space_id, "segments")
    tokens = segments.select(F.lit(None).cast("long").alias("as_of"), *SEGMENTS.names[1:])
    both = tokens.unionByName(requests.select("part", "key", "key_id", "as_of"), allowMissingColumns=True)
    by_key = both.repartition("key", "key_id").sortWithinPartitions("key_id", "key")
    return by_key.mapInArrow(read_as_of(dataset, space_id), from_arrow_schema(HISTORIES))


def read_as_of(dataset: DatasetConfig, space_id: str) -> Callable[[Batches], Batches]:
    """Turn segments and requests (``as_of`` set, tokens null) sorted by key into rows of schema histories."""
    length, retention = dataset.histories.length, dataset.histories.retention

    def run(batches: Batches) -> Batches:
        for rows in key_chunks(batches, max(1, CELLS // length)):
            keys = np.cumsum(key_changes(rows)) - 1
            asks = rows["as_of"].is_valid()
            is_request = asks.to_numpy(zero_copy_only=False)
            requests, segments = rows.filter(asks), rows.filter(pa.array(~is_request))
            if not requests.num_rows or not segments.num_rows:
                continue
            tokens, counts = unpack(segments)
            found = newest_as_of(
                np.repeat(keys[~is_request], counts),
                np.repeat(segments["arrival_end"].to_numpy(), counts),
                tokens.event_ts,
                tokens.example_id,
                keys[is_request],
                requests["as_of"].to_numpy(),
                length=length,
                retention=retention,
            )
            yield from _rows(space_id, requests, tokens, found)

    return run


def _rows(space_id: str, requests: pa.RecordBatch, tokens: Tokens, found: AsOf) -> Batches:
    has = found.counts > 0
    asked, counts = found.requests[has], found.counts[has]
    for rows, values in batches_of(counts, BATCH_TOKENS):
        some = requests.take(pa.array(asked[rows]))
        columns = {
            "space_id": repeated(space_id, some.num_rows),
            **pack(tokens.take(found.index[values]), counts[rows]),
        }
        columns |= {name: some[name] for name in ("key", "part", "key_id", "as_of")}
        yield pa.RecordBatch.from_arrays([columns[name] for name in HISTORIES.names], schema=HISTORIES)
