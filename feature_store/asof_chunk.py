"""One pass over Arrow rows that lie together by key: the bridge from Spark's batches to the NumPy core."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_store.asof_core import Contributions, Flags, Ints
from feature_store.asof_plan import COUNT, ClockName, KeyPlan
from feature_store.asof_rows import (
    AVAILABLE,
    EXAMPLE,
    KIND,
    MEASURE,
    PARTIAL,
    QUERY,
    UNITS,
    key_column,
    known_column,
    label_column,
)
from feature_store.clocks import PartitionClock

CHUNK_ROWS = 250_000
BATCH_ROWS = 20_000


@dataclass(frozen=True)
class AsOfClock:
    """When contributions can be seen, and as of when a row asks."""

    name: ClockName
    partitions: PartitionClock
    lag: int

    def tau(self, event_ts: Ints) -> Ints:
        """Instant of the query of a row."""
        return event_ts if self.name == "fm" else self.partitions.as_of(event_ts, self.lag)

    def available(self, event_ts: Ints, arrived_at: Ints, known_at: Ints) -> Ints:
        """Instant from which a contribution is seen; ``known_at`` is its label's, or its event_ts."""
        if self.name == "fm":
            return np.maximum(known_at, event_ts + 1)
        return self.partitions.close(np.maximum(np.maximum(known_at, arrived_at), event_ts))


class Chunk:
    """Rows of whole groups of keys, as NumPy columns."""

    def __init__(self, table: pa.Table, clock: AsOfClock) -> None:
        self.table = table
        self.clock = clock
        self.kind = self.ints(KIND)
        self.event_ts = self.ints("event_ts")
        self.is_query: Flags = self.kind == QUERY

    def ints(self, name: str, null: int = 0) -> Ints:
        """A whole-number column as int64 [n], with ``null`` where it is null."""
        return self.table.column(name).cast(pa.int64()).fill_null(null).to_numpy()

    def given(self, name: str) -> Flags:
        """Where a column is not null."""
        return self.table.column(name).is_valid().to_numpy()

    @cached_property
    def query_tau(self) -> Ints:
        """Instants of the queries, int64 [q]."""
        return self.clock.tau(self.event_ts[self.is_query])

    @cached_property
    def arrived_at(self) -> Ints:
        """Arrival of each row; its event where the source gives none."""
        return np.where(self.given("arrived_at"), self.ints("arrived_at"), self.event_ts)

    @cached_property
    def measure(self) -> pa.ChunkedArray:
        """Name of the measure that a partial sum is of."""
        return self.table.column(MEASURE)

    def key_ranks(self, key: KeyPlan) -> Ints:
        """Dense rank of each row's key, int64 [n]; -1 where it has none."""
        ranks = np.full(len(self.kind), -1, dtype=np.int64)
        given = self.given(key_column(key.name))
        ranks[given] = np.unique(self.ints(key_column(key.name))[given], return_inverse=True)[1]
        return ranks

    def labels(self, label: str) -> tuple[Flags, Ints, Ints]:
        """Where a label is known at all, its value, and from when."""
        known = self.given(label_column(label)) & self.given(known_column(label))
        return known, self.ints(label_column(label)), self.ints(known_column(label))

    def contributions(self, ranks: Ints, measure: str) -> Contributions:
        """What ``measure`` counts: examples, and partial sums where partitions are read as such."""
        known, units, known_at = self.kind <= EXAMPLE, self.ints(UNITS), self.event_ts
        if measure != COUNT:
            name, label = measure.split(":")
            given, value, known_at = self.labels(label)
            known = known & given
            units = units * value if name == "positive" else units
        rows = np.flatnonzero(known & (ranks >= 0))
        event_ts = self.event_ts[rows]
        available = self.clock.available(event_ts, self.arrived_at[rows], known_at[rows])
        own = Contributions(ranks[rows], event_ts, available, units[rows])
        return Contributions.concat([own, self._partial_sums(ranks, measure)])

    def partial_rows(self, ranks: Ints, measure: str) -> Ints:
        """Positions of the partial rows of a measure."""
        if MEASURE not in self.table.column_names:
            return np.zeros(0, dtype=np.int64)
        named = pc.equal(self.table.column(MEASURE), measure).fill_null(False).to_numpy()
        return np.flatnonzero(named & (self.kind == PARTIAL) & (ranks >= 0))

    def _partial_sums(self, ranks: Ints, measure: str) -> Contributions:
        rows = self.partial_rows(ranks, measure)
        if not len(rows):
            return Contributions(*(np.zeros(0, dtype=np.int64) for _ in range(4)))
        return Contributions(ranks[rows], self.event_ts[rows], self.ints(AVAILABLE)[rows], self.ints(UNITS)[rows])


def over_chunks(
    route: str, work: Callable[[pa.Table], pa.Table]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A mapInArrow function that gives ``work`` whole groups of equal ``route``, as many rows at once as pay off.

    The batches must come sorted by ``route``.
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in _chunks(batches, route):
            yield from work(table).combine_chunks().to_batches(max_chunksize=BATCH_ROWS)

    return run


def _chunks(batches: Iterable[pa.RecordBatch], route: str) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in filter(len, batches):
        # Only the newest batch is searched, so that a hot key's rows are looked at once, however many there are.
        routes = batch.column(route).to_numpy()
        before = held[-1].column(route)[-1].as_py() if held else routes[0]
        borders = np.flatnonzero(np.diff(routes, prepend=before))
        if len(borders) and rows + borders[-1] >= CHUNK_ROWS:
            cut = int(borders[-1])
            yield pa.Table.from_batches([*held, batch.slice(0, cut)])
            held, rows, batch = [], 0, batch.slice(cut)
        held.append(batch)
        rows += len(batch)
    if rows:
        yield pa.Table.from_batches(held)
