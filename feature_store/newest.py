"""The newest tokens of a key: cut within groups, and as of rising instants (numpy only).

The order of tokens is event_ts descending, then example_id descending. A cut to the newest L commutes with merging: the
newest L of a union are among the newest L of each part of it, whatever arrives later and however late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """Groups of kept tokens: ``index`` into the tokens given, newest first in each group, group after group.

    Args:
        index: int64 [m].
        first: int64 [g], the token (in ``index``) that starts each group.
        counts: int64 [g], tokens of each group.
    """

    index: Ints
    first: Ints
    counts: Ints


def newest_per_group(group: Sequence[npt.NDArray[Any]], event_ts: Ints, example_id: Ints, length: int) -> Cut:
    """Keep the newest ``length`` tokens of each distinct combination of the ``group`` columns (integers [n] each)."""
    order = np.lexsort([example_id, event_ts, *group])[::-1]
    starts = _starts([column[order] for column in group], len(order))
    rank = np.arange(len(order)) - np.repeat(starts, _lengths(starts, len(order)))
    counts = np.minimum(_lengths(starts, len(order)), length)
    return Cut(order[rank < length], np.cumsum(counts) - counts, counts)


@dataclass(frozen=True)
class AsOf:
    """What requests read: request ``requests[i]`` reads the next ``counts[i]`` entries of ``index``, newest first."""

    requests: Ints
    counts: Ints
    index: Ints


def newest_as_of(
    keys: Ints,
    arrival_end: Ints,
    event_ts: Ints,
    example_id: Ints,
    request_keys: Ints,
    request_as_of: Ints,
    *,
    length: int,
    retention: int,
) -> AsOf:
    """For each request the newest ``length`` tokens of its key as of its instant.

    A token is read iff arrival_end <= as_of and event_ts >= as_of - retention. One pass over the distinct instants
    keeps the newest tokens of every key; only keys with arrivals since the last instant are merged again.

    Args:
        keys, arrival_end, event_ts, example_id: int64 [n], the tokens; keys are dense, from 0.
        request_keys, request_as_of: int64 [r].
        length: L.
        retention: milliseconds before the instant.
    """
    oldest_first = np.lexsort([example_id, event_ts])
    times = event_ts[oldest_first]
    steps = np.unique(request_as_of)
    arrivals = _Arrivals(keys[oldest_first], np.searchsorted(steps, arrival_end[oldest_first]), len(steps), length)
    size = 1 + max(keys.max(initial=-1), request_keys.max(initial=-1))
    buffer = np.full((size, length), -1, np.int32)
    requests = np.argsort(request_as_of, kind="stable")
    borders = np.searchsorted(request_as_of[requests], steps, side="right")
    counts: list[Ints] = []
    found: list[npt.NDArray[np.int32]] = []
    begin = 0
    for step, (as_of, end) in enumerate(zip(steps, borders, strict=True)):
        arrivals.merge_into(buffer, step)
        newest = buffer[request_keys[requests[begin:end]], ::-1]
        kept = newest >= max(0, np.searchsorted(times, as_of - retention))
        counts.append(kept.sum(axis=1))
        found.append(newest[kept])
        begin = end
    positions = _joined(found)
    return AsOf(requests, _joined(counts), oldest_first[positions])


class _Arrivals:
    """Tokens by the step at which they can first be read. Their position (oldest first) is what is merged."""

    def __init__(self, keys: Ints, steps: Ints, step_count: int, length: int) -> None:
        positions = np.arange(len(keys), dtype=np.int32)
        order = np.lexsort((positions, keys, steps))
        self.positions, self.keys, self.length = positions[order], keys[order], length
        self.borders = np.searchsorted(steps[order], np.arange(step_count + 1))

    def merge_into(self, buffer: npt.NDArray[np.int32], step: int) -> None:
        """Put the arrivals of ``step`` into their keys' rows of ``buffer`` [keys, L], oldest first, -1 padded left."""
        window = slice(self.borders[step], self.borders[step + 1])
        keys, positions = self.keys[window], self.positions[window]
        if not len(keys):
            return
        starts = _starts([keys], len(keys))
        sizes = _lengths(starts, len(keys))
        from_end = np.repeat(starts + sizes, sizes) - np.arange(len(keys))
        kept = from_end <= self.length
        width = min(self.length, int(sizes.max()))
        fresh = np.full((len(starts), width), -1, np.int32)
        fresh[np.repeat(np.arange(len(starts)), sizes)[kept], width - from_end[kept]] = positions[kept]
        changed = keys[starts]
        merged = np.sort(np.concatenate([buffer[changed], fresh], axis=1), axis=1)
        buffer[changed] = merged[:, -self.length :]


def batches_of(counts: Ints, limit: int) -> Iterator[tuple[slice, slice]]:
    """Slices of rows, and of their values, so that each holds about ``limit`` values (at least one row)."""
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield slice(begin, end), slice(int(done), int(ends[end - 1]))
        begin = end


def _starts(columns: Sequence[npt.NDArray[Any]], size: int) -> Ints:
    changed = np.zeros(size, bool)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changed)


def _lengths(starts: Ints, size: int) -> Ints:
    return np.diff(np.append(starts, size))


def _joined(arrays: Sequence[npt.NDArray[Any]]) -> Ints:
    return np.concatenate(arrays).astype(np.int64) if arrays else np.zeros(0, np.int64)
