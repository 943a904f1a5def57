"""Every rule about time in one place: partitions, availability and the horizon of an example.

Instants are int64 milliseconds since 1970-01-01 UTC, in tables and in code. A partition (``part``) is the text of its
UTC start; within one data set all parts have one format, so text order is time order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from feature_store.errors import ContractError

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
INSTANTS_START, INSTANTS_END = 0, 253_402_300_800_000
"""Instants of a source lie from 1970-01-01 until the end of the year 9999: others are faults, such as a wrong unit."""

_UNITS = {"ms": 1, "s": 1_000, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_DURATION = re.compile(r"^(\d+)\s*(ms|s|m|h|d)$")
_PART = re.compile(r"^(\d{4})-(\d{2})-(\d{2})(?:T(\d{2})(\d{2})?)?$")

Instant = TypeVar("Instant", int, npt.NDArray[np.int64])


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as ``30m``, ``6h`` or ``1d``.

    Raises:
        ContractError: the text is not a whole number followed by ms, s, m, h or d.
    """
    match = _DURATION.match(text.strip())
    if match is None:
        raise ContractError(f"got duration {text!r}; allowed: a whole number and a unit of ms, s, m, h or d, as in 30m")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class PartitionClock:
    """Partition arithmetic of one data set.

    Args:
        grain_ms: length of a partition; a divisor of a day, from 10 minutes.
        offset_ms: where a partition border lies relative to UTC midnight, in [0, grain).
    """

    grain_ms: int
    offset_ms: int = 0

    def __post_init__(self) -> None:
        if self.grain_ms < 10 * MINUTE_MS or self.grain_ms % MINUTE_MS or DAY_MS % self.grain_ms:
            raise ContractError(
                f"grain: got {self.grain_ms} ms; allowed: a divisor of a day in whole minutes, from 10 minutes"
            )
        if not 0 <= self.offset_ms < DAY_MS or self.offset_ms % MINUTE_MS:
            raise ContractError(f"day_offset: got {self.offset_ms} ms; allowed: whole minutes from 0 to under one day")

    def floor(self, instant: Instant) -> Instant:
        """Start of the partition that holds ``instant``: a scalar, an array or (from 1970 on) a Spark column."""
        return instant - (instant - self.offset_ms) % self.grain_ms

    def close(self, instant: Instant) -> Instant:
        """End of the partition that holds ``instant``: when a batch can first read it."""
        return self.floor(instant) + self.grain_ms

    def as_of(self, event_ts: Instant, lag_ms: int) -> Instant:
        """Horizon of an example: the start of part_of(event_ts - lag).

        A token is readable by the example iff its arrival partition closed at or before this instant, which is the
        same as end(arrival partition) + lag <= event_ts.
        """
        return self.floor(event_ts - lag_ms)

    def part_of(self, instant: int) -> str:
        """Text of the partition that holds ``instant``."""
        start = datetime.fromtimestamp(self.floor(instant) / 1000, tz=UTC)
        if self.grain_ms == DAY_MS and self.offset_ms == 0:
            return start.strftime("%Y-%m-%d")
        if self.grain_ms % HOUR_MS == 0 and self.offset_ms % HOUR_MS == 0:
            return start.strftime("%Y-%m-%dT%H")
        return start.strftime("%Y-%m-%dT%H%M")

    def start(self, part: str) -> int:
        """First instant of ``part``.

        Raises:
            ContractError: the text is no partition of this grain.
        """
        return _start(self, part)

    def end(self, part: str) -> int:
        """First instant after ``part``."""
        return self.start(part) + self.grain_ms

    def next(self, part: str, count: int = 1) -> str:
        """The partition ``count`` steps later (earlier when negative)."""
        return self.part_of(self.start(part) + count * self.grain_ms)

    def between(self, first: str, last: str) -> list[str]:
        """All partitions from ``first`` to ``last``, both included.

        Raises:
            ContractError: ``last`` lies before ``first``.
        """
        start, stop = self.start(first), self.start(last)
        if stop < start:
            raise ContractError(f"got a range from {first} to {last}: its end lies before its start")
        return [self.part_of(instant) for instant in range(start, stop + 1, self.grain_ms)]

    def span(self, first: str, last: str) -> tuple[str, str]:
        """Widen a range given in whole days (``2023-05-25``) to partitions of this grain; parts pass through."""
        return self._edge(first, last=False), self._edge(last, last=True)

    def _edge(self, text: str, *, last: bool) -> str:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) and not (self.grain_ms == DAY_MS and self.offset_ms == 0):
            day = PartitionClock(DAY_MS).start(text) + self.offset_ms
            return self.part_of(day + (DAY_MS - self.grain_ms if last else 0))
        self.start(text)
        return text

    def _example(self) -> str:
        return f"text as in {self.part_of(1_684_972_800_000)}, a multiple of {self.grain_ms // MINUTE_MS} minutes"


@lru_cache(maxsize=65_536)
def _start(clock: PartitionClock, part: str) -> int:
    # A page over thousands of partitions asks for each a dozen times.
    match = _PART.match(part)
    if match is None:
        raise ContractError(f"got partition {part!r}; allowed: {clock._example()}")
    year, month, day, hour, minute = (int(value or 0) for value in match.groups())
    try:
        start = int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp() * 1000)
    except ValueError as error:
        raise ContractError(f"got partition {part!r}: {error}") from error
    if clock.part_of(start) != part:
        raise ContractError(f"got partition {part!r}; allowed at this grain: {clock._example()}")
    return start


@dataclass(frozen=True)
class HistoryClock:
    """From when histories show a token: once its arrival partition has closed and the lag has passed, or at once.

    Args:
        partitions: of the data set.
        lag_ms: delay after a partition closes.
        at_once: a token is readable from the instant at which it arrives, but by later events alone.
    """

    partitions: PartitionClock
    lag_ms: int
    at_once: bool = False

    def readable_from(self, arrival: npt.NDArray[np.int64], event_ts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Least horizon that shows tokens of events at ``event_ts`` that arrived at ``arrival``; int64 [N] each."""
        if not self.at_once:
            return self.partitions.close(arrival)
        later: npt.NDArray[np.int64] = np.maximum(arrival, event_ts + 1)
        return later

    def horizon(self, event_ts: Instant) -> Instant:
        """What an example at ``event_ts`` reads as of: all tokens whose ``readable_from`` is not after it."""
        return event_ts if self.at_once else self.partitions.as_of(event_ts, self.lag_ms)

    @property
    def mean_age_ms(self) -> float:
        """How long ago, on average, the newest horizon of an example lies."""
        return 0.0 if self.at_once else self.partitions.grain_ms / 2 + self.lag_ms

    def newest_event(self, part: str) -> int:
        """No example of ``part`` reads tokens of events after this instant."""
        last = self.partitions.end(part) - 1
        return last if self.at_once else self.partitions.as_of(last, self.lag_ms) - 1


def available_at(arrival_end: Instant, lag_ms: int, fm_train_cutoff: int = 0, training_lag_ms: int = 0) -> Instant:
    """Instant from which a token may be read: max(end of arrival partition + lag, cutoff + training lag)."""
    ready = np.maximum(arrival_end + lag_ms, fm_train_cutoff + training_lag_ms)
    return int(ready) if isinstance(arrival_end, int) else ready
