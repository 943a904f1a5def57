"""Strictly past sums, first sights, newest events and ranks of many keys at once, in NumPy, without Spark or clocks.

A *contribution* is (key, event_ts e, available, units). A query (key, tau) sees it iff available <= tau, and a window W
holds it iff e >= tau - W. Keys are dense ranks from 0; a query with key -1 sees nothing. Units are whole numbers
(weights times UNIT), so sums depend neither on order nor on what else is in the arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

UNIT = 1 << 20
NEVER = np.iinfo(np.int64).min
_CODES = 1 << 62
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Contributions:
    """What queries may see: ``key`` (dense ranks), ``event_ts``, ``available`` and ``units``, all int64 [n]."""

    key: Ints
    event_ts: Ints
    available: Ints
    units: Ints

    @staticmethod
    def concat(parts: list[Contributions]) -> Contributions:
        """All contributions of ``parts``, which is not empty."""
        fields = ("key", "event_ts", "available", "units")
        return Contributions(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


class Timeline:
    """Contributions sorted once by availability and once by event, ready for queries of any window."""

    def __init__(self, seen: Contributions, query_key: Ints, tau: Ints) -> None:
        """``query_key`` and ``tau``, int64 [q], are the queries that every method answers, in their order."""
        self._seen = seen
        self._query_key = query_key
        self._tau = tau
        self._axis = _Axis.of(seen, query_key)
        available = self._axis.code(seen.key, seen.available)
        self._by_available = np.argsort(available, kind="stable")
        available = available[self._by_available]
        self._start = np.searchsorted(available, self._axis.start(query_key))
        self._stop = np.maximum(np.searchsorted(available, self._axis.code(query_key, tau), side="right"), self._start)
        event = self._axis.code(seen.key, seen.event_ts)
        self._by_event = np.argsort(event, kind="stable")
        self._event = event[self._by_event]

    def sums(self, window: int | None) -> Ints:
        """Units seen within ``window`` ms before each query (None: ever), int64 [q]."""
        if window is None:
            gained = _prefix(self._seen.units[self._by_available])
            return self._masked(gained[self._stop] - gained[self._start])
        # Active for tau in [available, e + window]: what became available, less what has left the window since.
        units = np.where(self._seen.available <= self._seen.event_ts + window, self._seen.units, 0)
        gained, lost = _prefix(units[self._by_available]), _prefix(units[self._by_event])
        edge = np.searchsorted(self._event, self._axis.code(self._query_key, self._tau - window))
        return self._masked(gained[self._stop] - lost[edge])

    def first(self) -> Ints:
        """Earliest event_ts seen by each query, int64 [q]; NEVER where it sees none."""
        if not len(self._by_available):
            return np.full(len(self._tau), NEVER, dtype=np.int64)
        key, width = self._seen.key[self._by_available], self._axis.width
        # Later keys get lower values, so that one running minimum over all keys starts anew at each of them.
        descending = self._axis.place(self._seen.event_ts[self._by_available]) - key * width
        earliest = np.minimum.accumulate(descending)[np.maximum(self._stop - 1, 0)]
        found = (self._stop > self._start) & (self._query_key >= 0)
        place = np.where(found, earliest + self._query_key * width, 1)
        return np.where(found, self._axis.instant(place), NEVER)

    def _masked(self, sums: Ints) -> Ints:
        return np.where(self._query_key >= 0, sums, 0)


@dataclass(frozen=True)
class _Axis:
    """Packs (key, instant) into one sortable int64, so that one binary search serves all keys.

    An instant becomes its distance from the earliest contribution, clipped just outside their range; where keys times
    range would overflow (a stray date), it becomes its place among the contributions' ``instants`` instead.
    """

    low: int
    width: int
    instants: Ints | None = None

    @staticmethod
    def of(seen: Contributions, query_key: Ints) -> _Axis:
        if not len(seen.key):
            return _Axis(0, 2)
        low = int(min(seen.event_ts.min(), seen.available.min())) - 1
        width = int(max(seen.event_ts.max(), seen.available.max())) - low + 2
        keys = int(max(seen.key.max(), query_key.max(initial=0))) + 2
        if keys * width < _CODES:
            return _Axis(low, width)
        instants = np.unique(np.concatenate([seen.event_ts, seen.available]))
        return _Axis(low, 2 * len(instants) + 1, instants)

    def place(self, instant: Ints) -> Ints:
        if self.instants is None:
            return np.clip(instant - self.low, 0, self.width - 1)
        left = np.searchsorted(self.instants, instant)
        return left + np.searchsorted(self.instants, instant, side="right")

    def instant(self, place: Ints) -> Ints:
        """The instant of a contribution from its place."""
        return place + self.low if self.instants is None else self.instants[place // 2]

    def code(self, key: Ints, instant: Ints) -> Ints:
        return key * self.width + self.place(instant)

    def start(self, key: Ints) -> Ints:
        """A code at or below all contributions of ``key`` and above those of earlier keys."""
        return key * self.width


def _prefix(values: Ints) -> Ints:
    total = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=total[1:])
    return total


def newest(key: Ints, event_ts: Ints, available: Ints, query_key: Ints, tau: Ints, length: int) -> Ints:
    """Positions of the newest ``length`` events that each query sees, newest first, int64 [q, length]; -1 pads.

    Events must be sorted by key, then event_ts, then whatever breaks ties (the last is the newest), and
    available > event_ts, which makes what a query sees strictly past.
    """
    found = np.full((len(tau), length), -1, dtype=np.int64)
    seen = Contributions(key, event_ts, available, np.zeros(0, dtype=np.int64))
    axis = _Axis.of(seen, query_key)
    codes = axis.code(key, event_ts)
    first = np.searchsorted(codes, axis.start(query_key))
    last = np.where(query_key >= 0, np.searchsorted(codes, axis.code(query_key, tau)), first)
    for start in range(0, len(tau), _BLOCK):
        block = slice(start, start + _BLOCK)
        _walk_back(available, first[block], last[block], tau[block], found[block])
    return found


def _walk_back(available: Ints, first: Ints, last: Ints, tau: Ints, found: Ints) -> None:
    """Fill ``found`` [q, L] from position last - 1 down to first, a stride of L positions at a time."""
    length = found.shape[1]
    steps = np.arange(length, dtype=np.int64)
    active, count, position = np.arange(len(tau)), np.zeros(len(tau), dtype=np.int64), last.copy()
    while len(active := active[(position[active] > first[active]) & (count[active] < length)]):
        candidate = position[active, None] - 1 - steps
        visible = candidate >= first[active, None]
        visible &= available[np.maximum(candidate, 0)] <= tau[active, None]
        place = np.cumsum(visible, axis=1) - 1 + count[active, None]
        visible &= place < length
        row, column = np.nonzero(visible)
        found[active[row], place[row, column]] = candidate[row, column]
        count[active] += visible.sum(axis=1)
        position[active] -= length


def rank_and_difference(group: Ints, order: Ints, values: Floats) -> tuple[Floats, Floats]:
    """Rank (0: the highest, equal values share the smaller rank) and difference from the mean, float32 [n] each.

    ``group`` is a dense rank; ``order`` fixes the order of summation. Rows of group -1 get zeros.
    """
    rank, difference = np.zeros((2, len(values)), dtype=np.float32)
    if not len(values):
        return rank, difference
    by_value = np.lexsort((-values, group))
    place = np.arange(len(values))
    sorted_group, sorted_value = group[by_value], values[by_value]
    new_group = np.diff(sorted_group, prepend=sorted_group[0] - 1) != 0
    new_value = new_group | (np.diff(sorted_value, prepend=sorted_value[0]) != 0)
    start_of_group = np.maximum.accumulate(np.where(new_group, place, 0))
    start_of_value = np.maximum.accumulate(np.where(new_value, place, 0))
    rank[by_value] = start_of_value - start_of_group
    fixed = np.argsort(order, kind="stable")
    sums = np.bincount(group[fixed] + 1, weights=values[fixed].astype(np.float64))
    mean = sums / np.maximum(np.bincount(group[fixed] + 1), 1)
    difference[:] = values - mean[group + 1]
    rank[group < 0] = difference[group < 0] = 0
    return rank, difference
