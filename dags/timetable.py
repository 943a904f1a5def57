"""The timetable of the data Dag: a run when a partition closes, and backfills in whole days."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from airflow.timetables.base import DagRunInfo
from airflow.timetables.trigger import CronPartitionTimetable

from feature_store.clocks import DAY_MS, PartitionClock
from pipelines.orchestration.partition_key import closed_part, cron_of, instant_ms, key_format


class PartitionTimetable(CronPartitionTimetable):
    """Runs of one data set's partitions; the key of a run is its partition's name.

    A bound of a backfill that lies at midnight stands for that whole day, as in ``loopfm backfill``; any other instant
    is taken as it is. A partition that has not closed is never backfilled: its scheduled run makes it.

    Args:
        clock: of the data set.
    """

    def __init__(self, clock: PartitionClock) -> None:
        super().__init__(cron_of(clock), timezone="UTC", run_offset=-1, key_format=key_format(clock))
        self.clock = clock

    def serialize(self) -> dict[str, Any]:
        """The clock, for the scheduler and the API server."""
        return {"grain_ms": self.clock.grain_ms, "offset_ms": self.clock.offset_ms}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> PartitionTimetable:
        """The timetable that ``serialize`` described."""
        return cls(PartitionClock(**data))

    def iter_partition_dagrun_infos(self, *, earliest: datetime, latest: datetime) -> Iterable[DagRunInfo]:
        """One run for each closed partition from ``earliest`` to ``latest``, both included."""
        closed = self.clock.start(closed_part(self.clock, datetime.now(UTC)))
        last = min(self._bound(latest, last=True), closed)
        return super().iter_partition_dagrun_infos(
            earliest=_instant(self._bound(earliest, last=False)), latest=_instant(last)
        )

    def _bound(self, instant: datetime, *, last: bool) -> int:
        milliseconds = instant_ms(instant)
        if milliseconds % DAY_MS:
            return milliseconds
        day = PartitionClock(DAY_MS).part_of(milliseconds)
        return self.clock.start(self.clock.span(day, day)[1 if last else 0])


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
