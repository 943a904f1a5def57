"""A scheduled run and a backfill of the same partition have one key, and it is the partition's own name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pendulum
import pytest
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import DagRunInfo, TimeRestriction

from dags.data_dag import data_dag
from dags.project import Project
from dags.timetable import PartitionTimetable
from feature_store.clocks import DAY_MS, HOUR_MS, MINUTE_MS, PartitionClock
from feature_store.errors import ContractError
from pipelines.config import parse_config
from pipelines.errors import ConfigError, StepError
from pipelines.orchestration.partition_key import closed_part, cron_of, resolve_part
from tests.pipelines import loop_world

GRAINS = {
    "day": PartitionClock(DAY_MS),
    "day at 05:30": PartitionClock(DAY_MS, 330 * MINUTE_MS),
    "hour": PartitionClock(HOUR_MS),
    "hour at :15": PartitionClock(HOUR_MS, 15 * MINUTE_MS),
    "hour, days from 05:30": PartitionClock(HOUR_MS, 330 * MINUTE_MS),
    "six hours": PartitionClock(6 * HOUR_MS),
    "six hours from 2": PartitionClock(6 * HOUR_MS, 2 * HOUR_MS),
    "ten minutes": PartitionClock(10 * MINUTE_MS),
    "twenty minutes at :05": PartitionClock(20 * MINUTE_MS, 5 * MINUTE_MS),
}
BORDERS = {
    "month": ("2025-01-31", "2025-02-01"),
    "leap day": ("2024-02-28", "2024-03-01"),
    "year": ("2024-12-31", "2025-01-01"),
    "clocks go forward": ("2025-03-29", "2025-03-30"),
    "clocks go back": ("2025-10-25", "2025-10-26"),
}


def at(text: str) -> datetime:
    """A date or time as Airflow's command line takes it."""
    return pendulum.instance(datetime.fromisoformat(text).replace(tzinfo=UTC))


def scheduled_keys(clock: PartitionClock, first: str, last: str) -> list[str | None]:
    """Keys of the runs that a scheduler with catch-up makes, from the end of ``first`` to the end of ``last``."""
    earliest, latest = (pendulum.from_timestamp(clock.end(part) / 1000) for part in (first, last))
    return keys_between(clock, earliest, latest)


def keys_between(clock: PartitionClock, earliest: pendulum.DateTime, latest: pendulum.DateTime) -> list[str | None]:
    """The same from the first due instant to the last."""
    table, keys, previous = PartitionTimetable(clock), [], None
    restriction = TimeRestriction(earliest=earliest, latest=latest, catchup=True)
    while (info := table.next_dagrun_info_v2(last_dagrun_info=previous, restriction=restriction)) is not None:
        keys.append(info.partition_key)
        previous = info
    return keys


def backfilled_keys(clock: PartitionClock, first: str, last: str) -> list[str | None]:
    """Keys of the runs of ``airflow backfill create --from-date first --to-date last``."""
    infos = PartitionTimetable(clock).iter_partition_dagrun_infos(earliest=at(first), latest=at(last))
    return [info.partition_key for info in infos]


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("grain", GRAINS)
def test_scheduled_and_backfilled_partitions_of_whole_days_have_one_key(grain: str, border: str) -> None:
    clock, days = GRAINS[grain], BORDERS[border]
    first, last = clock.span(*days)
    expected = clock.between(first, last)
    assert len(expected) == len(PartitionClock(DAY_MS).between(*days)) * DAY_MS // clock.grain_ms
    assert backfilled_keys(clock, *days) == expected
    assert scheduled_keys(clock, first, last) == expected
    assert [resolve_part(clock, key, {}, None) for key in expected] == expected


def test_airflows_backfill_of_the_dag_as_the_scheduler_reads_it_has_whole_days() -> None:
    dag = data_dag(Project("x.yaml", loop_world.settings(grain="1h")))
    read = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    infos = read.iter_dagrun_infos_between(at("2025-03-29"), at("2025-03-30"))
    assert [info.partition_key for info in infos] == PartitionClock(HOUR_MS).between("2025-03-29T00", "2025-03-30T23")


def test_a_bound_within_a_day_is_taken_as_it_is() -> None:
    keys = backfilled_keys(GRAINS["six hours"], "2025-03-30T06:00", "2025-03-31T13:00")
    assert keys == [
        "2025-03-30T06",
        "2025-03-30T12",
        "2025-03-30T18",
        "2025-03-31T00",
        "2025-03-31T06",
        "2025-03-31T12",
    ]


def test_a_partition_that_has_not_closed_is_left_to_the_schedule() -> None:
    clock = GRAINS["hour"]
    today = datetime.now(UTC)
    keys = backfilled_keys(clock, f"{today - timedelta(days=1):%Y-%m-%d}", f"{today:%Y-%m-%d}")
    assert closed_part(clock, today) == keys[-1] or closed_part(clock, datetime.now(UTC)) == keys[-1]
    assert (
        backfilled_keys(clock, f"{today + timedelta(days=1):%Y-%m-%d}", f"{today + timedelta(days=2):%Y-%m-%d}") == []
    )


@pytest.mark.parametrize("grain", ["1d", "1h"])
def test_a_schedule_goes_from_the_first_partition_of_its_first_day_to_the_last_of_its_last(grain: str) -> None:
    schedule = {"first": "2025-03-29", "last": "2025-03-30", "catchup": True}
    config = parse_config(loop_world.raw_settings(grain=grain) | {"schedule": schedule}, "x.yaml")
    dag = data_dag(Project("x.yaml", config))
    clock = config.dataset.clock
    parts = clock.between(*clock.span("2025-03-29", "2025-03-30"))
    assert dag.start_date == at("2025-03-29") + timedelta(milliseconds=clock.grain_ms)
    assert keys_between(clock, pendulum.instance(dag.start_date), pendulum.instance(dag.end_date)) == parts


def test_partitions_that_closed_during_a_long_run_are_made_up_and_older_ones_are_not() -> None:
    clock = GRAINS["hour"]
    table = PartitionTimetable(clock, 5 * HOUR_MS)
    closed = closed_part(clock, datetime.now(UTC))
    free = TimeRestriction(earliest=None, latest=None, catchup=False)

    def after(part: str) -> str | None:
        last = DagRunInfo(run_after=pendulum.from_timestamp(clock.end(part) / 1000), data_interval=None)
        info = table.next_dagrun_info_v2(last_dagrun_info=last, restriction=free)
        return info.partition_key if info else None

    assert after(clock.next(closed, -3)) == clock.next(closed, -2)
    assert after(closed) == clock.next(closed)
    assert after(clock.next(closed, -100)) == clock.next(closed, -4)
    table = PartitionTimetable(clock)
    assert after(clock.next(closed, -3)) == closed, "nothing is made up"


@pytest.mark.parametrize("grain", GRAINS)
def test_the_scheduler_reads_the_timetable_as_it_was_written(grain: str) -> None:
    from airflow.serialization.decoders import decode_timetable
    from airflow.serialization.encoders import encode_timetable

    read = decode_timetable(encode_timetable(PartitionTimetable(GRAINS[grain], DAY_MS)))
    assert isinstance(read, PartitionTimetable)
    assert (read.clock, read.back_ms) == (GRAINS[grain], DAY_MS)


def test_a_partition_is_scheduled_when_it_has_closed() -> None:
    clock = PartitionClock(HOUR_MS)
    start = datetime(2026, 1, 9, 13, tzinfo=UTC)
    info = PartitionTimetable(clock).next_dagrun_info_v2(
        last_dagrun_info=None, restriction=TimeRestriction(earliest=pendulum.instance(start), latest=None, catchup=True)
    )
    assert info is not None
    assert (info.partition_key, info.run_after) == ("2026-01-09T12", start)
    assert closed_part(clock, start) == "2026-01-09T12"


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
    made = data_dag(Project("x.yaml", loop_world.settings(grain="1h"))).timetable
    assert isinstance(made, PartitionTimetable)
    assert made.clock == PartitionClock(HOUR_MS)
