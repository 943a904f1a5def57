"""What one pass adds to its rows: as-of columns and event lists, and the within-impression columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_store.asof_chunk import AsOfClock, Chunk
from feature_store.asof_core import NEVER, UNIT, Floats, Ints, Timeline, newest, rank_and_difference
from feature_store.asof_events import visible_events
from feature_store.asof_plan import COUNT, KeyPlan, Pass, labelled, positive, window_ms
from feature_store.asof_rows import EXAMPLE, QUERY
from feature_store.clocks import HOUR_MS
from feature_store.config import AsOfFeature, EventList


def columns_of_pass(one: Pass) -> list[tuple[str, pa.DataType]]:
    """Columns that a pass adds, in order."""
    fields: list[tuple[str, pa.DataType]] = []
    for key in one.keys:
        fields += [(name, pa.float32()) for name in key.outputs]
        for event_list in key.lists:
            fields += [(event_list.name, pa.list_(pa.int64())), (age_column(event_list), pa.list_(pa.float32()))]
    return fields


def age_column(event_list: EventList) -> str:
    """Column with the age in hours of each event of a list."""
    return f"{event_list.name}_age_hours"


@dataclass(frozen=True)
class PassWork:
    """Adds a pass's columns to the rows of whole keys, and keeps of all columns those in ``output``.

    Args:
        one: the pass.
        clock: when contributions are seen.
        output: names of the columns to return, in order.
        last: no later pass needs the rows that are no queries.
    """

    one: Pass
    clock: AsOfClock
    output: tuple[str, ...]
    last: bool

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows in, rows out; values of rows that are no queries are zero or null."""
        chunk = Chunk(table, self.clock)
        made: dict[str, pa.Array] = {}
        for key in self.one.keys:
            ranks = chunk.key_ranks(key)
            made |= _scalars(chunk, key, ranks)
            for event_list in key.lists:
                made |= _lists(chunk, event_list, ranks)
        for name, values in made.items():
            table = table.append_column(name, values)
        return table.filter(pa.array(chunk.kind <= (QUERY if self.last else EXAMPLE))).select(list(self.output))


@dataclass(frozen=True)
class ImpressionWork:
    """Adds rank and difference within the impression for ``columns``; rows without an impression get zeros.

    Rows of one impression and one instant are compared: what else carries its id is not known yet, or past.
    """

    columns: tuple[str, ...]
    output: tuple[str, ...]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows in, the same rows out, with the new columns."""
        group = _impressions(table)
        order = table.column("example_id").to_numpy()
        for name in self.columns:
            values = table.column(name).fill_null(0).to_numpy()
            for suffix, column in zip(("rank", "diff"), rank_and_difference(group, order, values), strict=True):
                table = table.append_column(f"{name}_{suffix}", pa.array(column))
        return table.select(list(self.output))


def _impressions(table: pa.Table) -> Ints:
    group = np.full(table.num_rows, -1, dtype=np.int64)
    impression = table.column("impression_id")
    asks = impression.is_valid().to_numpy() & (table.column("_kind").to_numpy() == QUERY)
    pairs = np.stack([impression.fill_null(0).to_numpy()[asks], table.column("event_ts").to_numpy()[asks]])
    if asks.any():
        group[asks] = np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1)
    return group


class _Sums:
    """Sums of one key's measures for the queries of a chunk; a measure is sorted once for all windows."""

    def __init__(self, chunk: Chunk, ranks: Ints) -> None:
        self._chunk = chunk
        self._ranks = ranks
        self._lines: dict[str, Timeline] = {}
        self._known: dict[tuple[str, str], Ints] = {}

    def line(self, measure: str) -> Timeline:
        if measure not in self._lines:
            seen = self._chunk.contributions(self._ranks, measure)
            self._lines[measure] = Timeline(seen, self._ranks[self._chunk.is_query], self._chunk.query_tau)
        return self._lines[measure]

    def of(self, measure: str, window: str) -> Ints:
        if (measure, window) not in self._known:
            self._known[measure, window] = self.line(measure).sums(window_ms(window))
        return self._known[measure, window]


def _scalars(chunk: Chunk, key: KeyPlan, ranks: Ints) -> dict[str, pa.Array]:
    sums = _Sums(chunk, ranks)
    made = {}
    for feature in key.features:
        for name, values in zip(feature.columns, _feature(chunk, sums, feature), strict=True):
            full = np.zeros(len(ranks), dtype=np.float32)
            full[chunk.is_query] = values
            made[name] = pa.array(full)
    return made


def _feature(chunk: Chunk, sums: _Sums, feature: AsOfFeature) -> Iterator[npt.NDArray[np.float64]]:
    """Columns of one declaration, float64 [q] each."""
    label = feature.label or ""
    if feature.kind == "age":
        first = sums.line(COUNT).first()
        yield np.where(first == NEVER, -1.0, (chunk.query_tau - first) / HOUR_MS)
    for window in feature.windows:
        if feature.kind == "label_rate":
            known = sums.of(labelled(label), window)
            yield sums.of(positive(label), window) / np.maximum(known, 1)
        else:
            yield sums.of(COUNT if feature.kind == "count" else positive(label), window) / UNIT


def _lists(chunk: Chunk, event_list: EventList, ranks: Ints) -> dict[str, pa.Array]:
    """The list and its ages; all queries of one key and instant share one search."""
    events = visible_events(chunk, event_list, ranks)
    asks = np.stack([ranks[chunk.is_query], chunk.query_tau])
    (key, tau), inverse = np.unique(asks, axis=1, return_inverse=True)
    found = newest(events.key, events.event_ts, events.available, key, tau, event_list.length)
    there = found >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32))
    age = ((tau[:, None] - events.event_ts[found]) / HOUR_MS).astype(np.float32) if there.any() else there
    place = np.zeros(len(ranks), dtype=np.int64)
    place[chunk.is_query] = inverse.reshape(-1)
    places = pa.array(place, mask=~chunk.is_query)
    return {
        event_list.name: _list(offsets, events.entity[found[there]], places),
        age_column(event_list): _list(offsets, age[there].astype(np.float32), places),
    }


def _list(offsets: pa.Array, values: Ints | Floats, places: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(offsets, pa.array(values)).take(places)
