"""A scheduled run and a backfill of the same partition have one key, and it is the partition's own name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pendulum
import pytest
from airflow.timetables.base import TimeRestriction
from airflow.timetables.trigger import CronPartitionTimetable

from dags.data_dag import _timetable
from dags.project import Project
from feature_store.clocks import DAY_MS, HOUR_MS, MINUTE_MS, PartitionClock
from feature_store.errors import ContractError
from pipelines.errors import ConfigError, StepError
from pipelines.orchestration.partition_key import closed_part, cron_of, key_format, resolve_part
from tests.pipelines import loop_world

GRAINS = {
    "day": PartitionClock(DAY_MS),
    "day at 05:30": PartitionClock(DAY_MS, 330 * MINUTE_MS),
    "hour": PartitionClock(HOUR_MS),
    "hour at :15": PartitionClock(HOUR_MS, 15 * MINUTE_MS),
    "six hours": PartitionClock(6 * HOUR_MS),
    "six hours from 2": PartitionClock(6 * HOUR_MS, 2 * HOUR_MS),
    "ten minutes": PartitionClock(10 * MINUTE_MS),
    "twenty minutes at :05": PartitionClock(20 * MINUTE_MS, 5 * MINUTE_MS),
}
BORDERS = {
    "month": "2026-01-31T22:00",
    "leap day": "2024-02-28T22:00",
    "year": "2025-12-31T22:00",
    "clocks go forward": "2026-03-28T22:00",
    "clocks go back": "2026-10-24T22:00",
}


def timetable(clock: PartitionClock) -> CronPartitionTimetable:
    return CronPartitionTimetable(cron_of(clock), timezone="UTC", run_offset=-1, key_format=key_format(clock))


def scheduled_keys(clock: PartitionClock, start: datetime, end: datetime) -> list[str]:
    """Keys of the runs that a scheduler with catch-up makes, by the time they are due."""
    table, keys, last = timetable(clock), [], None
    restriction = TimeRestriction(earliest=pendulum.instance(start), latest=pendulum.instance(end), catchup=True)
    while (info := table.next_dagrun_info_v2(last_dagrun_info=last, restriction=restriction)) is not None:
        keys.append(info.partition_key)
        last = info
    return keys


def backfilled_keys(clock: PartitionClock, start: datetime, end: datetime) -> list[str]:
    return [
        info.partition_key
        for info in timetable(clock).iter_partition_dagrun_infos(
            earliest=pendulum.instance(start), latest=pendulum.instance(end)
        )
    ]


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("grain", GRAINS)
def test_scheduled_and_backfilled_partitions_have_one_key(grain: str, border: str) -> None:
    clock = GRAINS[grain]
    start = datetime.fromisoformat(BORDERS[border]).replace(tzinfo=UTC)
    end = start + timedelta(hours=52)
    first = clock.floor(int(start.timestamp() * 1000))
    expected = {clock.part_of(first + place * clock.grain_ms) for place in range(52 * HOUR_MS // clock.grain_ms + 2)}
    scheduled = scheduled_keys(clock, start, end)
    backfilled = backfilled_keys(clock, start, end)
    assert len(scheduled) == len(set(scheduled)) > 1
    assert set(scheduled) | set(backfilled) <= expected | {clock.part_of(first - clock.grain_ms)}
    assert len(set(scheduled) & set(backfilled)) >= len(expected) - 3
    assert [resolve_part(clock, key, {}, None) for key in backfilled] == backfilled


def test_a_partition_is_scheduled_when_it_has_closed() -> None:
    clock = PartitionClock(HOUR_MS)
    start = datetime(2026, 1, 9, 13, tzinfo=UTC)
    info = timetable(clock).next_dagrun_info_v2(
        last_dagrun_info=None, restriction=TimeRestriction(earliest=pendulum.instance(start), latest=None, catchup=True)
    )
    assert info is not None
    assert (info.partition_key, info.run_after) == ("2026-01-09T12", start)
    assert closed_part(clock, start) == "2026-01-09T12"


def test_a_whole_day_is_backfilled_to_its_last_partition() -> None:
    day = datetime(2026, 3, 29, tzinfo=UTC)
    keys = backfilled_keys(PartitionClock(HOUR_MS), day, day + timedelta(hours=23))
    assert keys == [f"2026-03-29T{hour:02}" for hour in range(24)]
    assert backfilled_keys(PartitionClock(DAY_MS), day, day) == ["2026-03-29"]


@pytest.mark.parametrize(
    ("key", "params", "logical", "part"),
    [
        ("2026-01-09T13", {"part": "2026-01-01T00"}, datetime(2026, 2, 2, tzinfo=UTC), "2026-01-09T13"),
        ("2026-01-09T13:00:00", {}, None, "2026-01-09T13"),
        (None, {"part": "2026-01-01T00"}, datetime(2026, 2, 2, tzinfo=UTC), "2026-01-01T00"),
        (None, {"part": None}, datetime(2026, 2, 2, 5, 59, tzinfo=UTC), "2026-02-02T05"),
        (None, {}, datetime(2026, 2, 2, 5, 59), "2026-02-02T05"),
    ],
)
def test_key_goes_before_parameter_before_logical_date(
    key: str | None, params: dict[str, str | None], logical: datetime | None, part: str
) -> None:
    assert resolve_part(PartitionClock(HOUR_MS), key, params, logical) == part


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (None, StepError, "names no partition: give it a partition key, the parameter 'part'"),
        ("2026-01-09T13:30:00", StepError, "no start of a partition; the one that holds it: 2026-01-09T13"),
        ("9 January of 2026", StepError, "is no time"),
        ("yesterday", ContractError, "got partition 'yesterday'; allowed: text as in"),
    ],
)
def test_a_run_without_a_partition_says_what_to_give(key: str | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve_part(PartitionClock(HOUR_MS), key, {}, None)


def test_a_grain_that_cron_cannot_say_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"dataset.grain: got 90 minutes"):
        cron_of(PartitionClock(90 * MINUTE_MS))


def test_the_data_dag_uses_the_grain_of_its_project() -> None:
    project = Project("x.yaml", loop_world.settings(grain="1h"))
    made = _timetable(project)
    assert (made.key_format, made.run_offset) == ("%Y-%m-%dT%H", -1)
