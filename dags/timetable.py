"""Timetables of Dags that follow partitions: a run when each, or every so many, of them closes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pendulum
from airflow.sdk import CronTriggerTimetable
from airflow.timetables.base import DagRunInfo, TimeRestriction
from airflow.timetables.trigger import CronPartitionTimetable, DeltaTriggerTimetable
from pendulum import DateTime

from feature_store.clocks import DAY_MS, PartitionClock
from pipelines.orchestration.partition_key import closed_part, cron_of, instant_ms, key_format
from pipelines.schedule_config import partitions_between

NEVER_AT_ONCE = timedelta(0)
"""For ``run_immediately``: ``False`` still makes up the tick before, for a tenth of the cadence after it (Airflow 3.3,
``_calc_first_run``, against its own docstring), so that a Dag that is switched on at 01:05 would run for 01:00."""


class PartitionTimetable(CronPartitionTimetable):
    """Runs of one data set's partitions; the key of a run is its partition's name.

    A bound of a backfill that lies at midnight stands for that whole day, as in ``loopfm backfill``; any other instant
    is taken as it is. A partition that has not closed is never backfilled: its scheduled run makes it.

    Without catch-up Airflow goes on with the newest partition alone: one that closed while a longer run of the same Dag
    was still at work would never be made. Here those of the last ``back_ms`` are made, oldest first.

    Args:
        clock: of the data set.
        back_ms: how far back partitions without a run are made up.
    """

    def __init__(self, clock: PartitionClock, back_ms: int = 0) -> None:
        super().__init__(
            cron_of(clock), timezone="UTC", run_offset=-1, key_format=key_format(clock), run_immediately=NEVER_AT_ONCE
        )
        self.clock, self.back_ms = clock, back_ms

    def serialize(self) -> dict[str, Any]:
        """Clock and reach, for the scheduler and the API server."""
        return {"grain_ms": self.clock.grain_ms, "offset_ms": self.clock.offset_ms, "back_ms": self.back_ms}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> PartitionTimetable:
        """The timetable that ``serialize`` described."""
        return cls(PartitionClock(data["grain_ms"], data["offset_ms"]), data.get("back_ms", 0))

    def next_dagrun_info_v2(
        self, *, last_dagrun_info: DagRunInfo | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The run of the partition after the last one that has a run, or of the oldest within reach."""
        if last_dagrun_info is None or restriction.catchup:
            return super().next_dagrun_info_v2(last_dagrun_info=last_dagrun_info, restriction=restriction)
        now = pendulum.now("UTC")
        oldest = min(self._align_to_next(now.subtract(seconds=self.back_ms / 1000)), self._align_to_prev(now))
        first = max(self._get_next(last_dagrun_info.run_after), oldest, restriction.earliest or oldest)
        within = TimeRestriction(earliest=first, latest=restriction.latest, catchup=True)
        return super().next_dagrun_info_v2(last_dagrun_info=None, restriction=within)

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


class EveryPartitions(DeltaTriggerTimetable):
    """A run when every N-th partition closes, counted from 1970, so that a restart changes no date.

    Args:
        clock: of the data set.
        count: N.
    """

    def __init__(self, clock: PartitionClock, count: int) -> None:
        super().__init__(timedelta(milliseconds=clock.grain_ms * count))
        self.clock, self.count = clock, count
        self.description = f"every {count} partitions"

    @property
    def summary(self) -> str:
        """What the UI shows."""
        return self.description

    def serialize(self) -> dict[str, Any]:
        """Clock and count, for the scheduler and the API server."""
        return {"grain_ms": self.clock.grain_ms, "offset_ms": self.clock.offset_ms, "count": self.count}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> EveryPartitions:
        """The timetable that ``serialize`` described."""
        return cls(PartitionClock(data["grain_ms"], data["offset_ms"]), data["count"])

    def _calc_first_run(self) -> DateTime:
        return self._align_to_next(pendulum.now("UTC"))

    def _align_to_next(self, current: DateTime) -> DateTime:
        before = self._align_to_prev(current)
        return current if before == current else self._get_next(before)

    def _align_to_prev(self, current: DateTime) -> DateTime:
        milliseconds, step = instant_ms(current), self.clock.grain_ms * self.count
        return pendulum.instance(_instant(milliseconds - (milliseconds - self.clock.offset_ms) % step))

    def _get_next(self, current: DateTime) -> DateTime:
        return super()._get_next(self._align_to_prev(current))


def cadence(text: str, clock: PartitionClock) -> CronTriggerTimetable | EveryPartitions:
    """The timetable of a setting such as ``schedule.train_fm``."""
    count = partitions_between(text)
    return cron_cadence(text) if count is None else EveryPartitions(clock, count)


def cron_cadence(text: str) -> CronTriggerTimetable:
    """A run at every tick of a cron expression in UTC that is still to come."""
    return CronTriggerTimetable(text, timezone="UTC", run_immediately=NEVER_AT_ONCE)


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
