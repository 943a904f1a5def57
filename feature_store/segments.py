"""Segments: the newest L tokens of every key within one partition, for all keys in one job.

A segment depends on its partition alone, so partitions are written in any order. The newest L are cut within each input
split before rows are exchanged: a key that holds a fifth of all rows sends at most L tokens per split and arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from feature_store.config import RAW_SPACE, DatasetConfig
from feature_store.key_stream import BATCH_TOKENS, CELLS, chunks, codes, key_chunks, repeated
from feature_store.newest import Cut, batches_of, newest_per_group
from feature_store.schemas import SEGMENTS
from feature_store.token_columns import check_space, head_names, key_columns, labels_by_head, space_name, within
from feature_store.tokens import Ints, Tokens, from_columns, pack, pack_ids, unpack

if TYPE_CHECKING:
    from feature_store.spaces import SpaceRecord

SPLIT_ROWS = 200_000

Batches = Iterator[pa.RecordBatch]


def segments_frame(
    spark: SparkSession,
    dataset: DatasetConfig,
    space: SpaceRecord | None,
    outputs_or_examples: DataFrame,
    labels: DataFrame,
    parts: list[str],
    past_events: DataFrame | None = None,
) -> DataFrame:
    """Segments of ``parts`` (schema segments), one row per (part, key, key_id, arrival_end).

    Args:
        spark: the session that all frames belong to.
        dataset: names the keys, L and the heads.
        space: space of ``outputs_or_examples`` = fm_outputs; None for raw tokens of examples.
        outputs_or_examples: fm_outputs rows of that space, or examples.
        labels: labels of the same partitions.
        parts: contiguous partitions.
        past_events: raw space only: events of the second source; those that are also examples count once.

    Raises:
        MixedSpacesError: fm_outputs hold another space.
    """
    rows = within(outputs_or_examples, parts)
    if space is not None:
        check_space(rows, space.space_id, "fm_outputs")
    tokens = rows.join(
        labels_by_head(head_names(dataset, space), within(labels, parts)), ["part", "example_id"], "left"
    )
    if space is None and past_events is not None:
        tokens = tokens.unionByName(_past_tokens(dataset, rows, within(past_events, parts)), allowMissingColumns=True)
    return merged_segments(dataset, split_segments(dataset, space, tokens))


def split_segments(dataset: DatasetConfig, space: SpaceRecord | None, tokens: DataFrame) -> DataFrame:
    """Newest L of every key within each input split: rows of schema segments, several a segment."""
    vectors = ["z", "logits"] if space is not None else list(dataset.entities)
    heads = range(len(head_names(dataset, space)))
    flat = _known_positives(dataset, tokens) if space is None else tokens.withColumn("arrival", _arrival())
    flat = flat.withColumns(key_columns(dataset)).select(
        "part", "example_id", "event_ts", "arrival", *vectors, *key_columns(dataset),
        *(f"label_{h}" for h in heads), *(f"available_{h}" for h in heads),
    )  # fmt: skip
    return flat.mapInArrow(cut_splits(dataset, space_name(space), len(heads)), from_arrow_schema(SEGMENTS))


def merged_segments(dataset: DatasetConfig, partial: DataFrame) -> DataFrame:
    """Merge the rows of each (part, key, key_id, arrival_end) to its newest L tokens."""
    by_key = partial.repartition("key", "key_id").sortWithinPartitions("key_id", "key")
    return by_key.mapInArrow(merge_rows(dataset.histories.length), from_arrow_schema(SEGMENTS))


def _arrival() -> Column:
    return F.greatest("arrived_at", "event_ts")


def _known_positives(dataset: DatasetConfig, tokens: DataFrame) -> DataFrame:
    """Raw tokens and when they arrive. One that is kept for its label arrives no sooner than the label is known."""
    label = dataset.histories.raw_label
    if label is None:
        return tokens.withColumn("arrival", _arrival())
    heads = [head for head, vertical in enumerate(dataset.verticals.values()) if vertical.label == label]
    known = F.array_min(F.array(*(F.when(F.col(f"label_{head}") == 1, F.col(f"available_{head}")) for head in heads)))
    return tokens.withColumn("_known", known).where("_known IS NOT NULL").withColumn(
        "arrival", F.greatest("arrived_at", "event_ts", "_known")
    )  # fmt: skip


def _past_tokens(dataset: DatasetConfig, examples: DataFrame, past_events: DataFrame) -> DataFrame:
    same = ["part", "user", "item", "event_ts"]
    columns = {"arrived_at": F.col("event_ts")}
    for head, vertical in enumerate(dataset.verticals.values()):
        label = F.col(f"label_{vertical.label}")
        columns[f"label_{head}"] = label
        known_at = F.col("event_ts") + dataset.labels[vertical.label].delay
        columns[f"available_{head}"] = F.when(label.isNotNull(), known_at)
    kept = past_events.join(examples.select(same).distinct(), same, "left_anti").withColumns(columns)
    return kept.drop(*(f"label_{name}" for name in dataset.labels))


def cut_splits(dataset: DatasetConfig, space_id: str, heads: int) -> Callable[[Batches], Batches]:
    """Turn flat tokens (columns of ``from_columns``, part, arrival, key_NAME) into packed rows, cut in each split."""
    clock, length = dataset.history_clock, dataset.histories.length
    entities = list(dataset.entities) if space_id == RAW_SPACE else []
    keys = list(dataset.histories.keys)

    def run(batches: Batches) -> Batches:
        for rows in chunks(batches, SPLIT_ROWS):
            tokens = from_columns(rows, entities, heads)
            ends, parts = clock.readable_from(rows["arrival"].to_numpy(), tokens.event_ts), codes(rows["part"])
            for key in keys:
                ids = rows[f"key_{key}"]
                has = np.flatnonzero(ids.is_valid().to_numpy(zero_copy_only=False))
                key_ids = ids.drop_null().to_numpy()
                cut = _cut([key_ids, ends[has], parts[has]], tokens.take(has), length)
                first = cut.index[cut.first]
                yield from _rows(
                    {
                        "space_id": repeated(space_id, len(first)),
                        "key": repeated(key, len(first)),
                        "part": rows["part"].take(pa.array(has[first])),
                        "key_id": pa.array(key_ids[first]),
                        "arrival_end": pa.array(ends[has][first]),
                    },
                    tokens,
                    has[cut.index],
                    cut.counts,
                )

    return run


def merge_rows(length: int) -> Callable[[Batches], Batches]:
    """Merge packed rows sorted by key into one row per (part, key, key_id, arrival_end)."""

    def run(batches: Batches) -> Batches:
        for rows in key_chunks(batches, max(1, CELLS // length)):
            tokens, counts = unpack(rows)
            row = np.repeat(np.arange(rows.num_rows), counts)
            names = [codes(rows["key"]), rows["key_id"].to_numpy(), codes(rows["part"]), rows["arrival_end"].to_numpy()]
            cut = _cut([name[row] for name in names], tokens, length)
            first = pa.array(row[cut.index[cut.first]])
            heading = {name: rows[name].take(first) for name in ("space_id", "key", "part", "key_id", "arrival_end")}
            yield from _rows(heading, tokens, cut.index, cut.counts)

    return run


def _cut(group: Sequence[npt.NDArray[Any]], tokens: Tokens, length: int) -> Cut:
    return newest_per_group(group, tokens.event_ts, tokens.example_id, length)


def _rows(heading: dict[str, pa.Array], tokens: Tokens, index: Ints, counts: Ints) -> Batches:
    for rows, values in batches_of(counts, BATCH_TOKENS):
        some, sizes = tokens.take(index[values]), counts[rows]
        columns = {name: column[rows] for name, column in heading.items()}
        columns |= {"example_id": pack_ids(some, sizes), **pack(some, sizes)}
        yield pa.RecordBatch.from_arrays([columns[name] for name in SEGMENTS.names], schema=SEGMENTS)
