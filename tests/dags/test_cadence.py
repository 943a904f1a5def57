"""Trainings every so many partitions: where those runs lie, and that neither a restart nor a pause moves them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pendulum
import pytest
from airflow.sdk import CronTriggerTimetable
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import DataInterval, TimeRestriction

from dags.factory import project_dags
from dags.timetable import EveryPartitions, cadence
from feature_store.clocks import DAY_MS, HOUR_MS, PartitionClock

CLOCKS = {"day": PartitionClock(DAY_MS), "six hours from 2": PartitionClock(6 * HOUR_MS, 2 * HOUR_MS)}


def due(
    table: EveryPartitions, last: pendulum.DateTime | None, earliest: pendulum.DateTime | None = None
) -> pendulum.DateTime:
    """When the run after ``last`` is due."""
    restriction = TimeRestriction(earliest, None, catchup=earliest is not None)
    interval = None if last is None else DataInterval.exact(last)
    info = table.next_dagrun_info(last_automated_data_interval=interval, restriction=restriction)
    assert info is not None
    return info.run_after


@pytest.mark.parametrize("grain", CLOCKS)
def test_runs_lie_n_partitions_apart_and_where_one_closes(grain: str) -> None:
    clock = CLOCKS[grain]
    table = EveryPartitions(clock, 5)
    first = due(table, None, pendulum.datetime(2026, 1, 9, 13, 7))
    second = due(table, first, first)
    milliseconds = int(first.timestamp() * 1000)
    assert clock.floor(milliseconds) == milliseconds
    assert second - first == pendulum.duration(milliseconds=5 * clock.grain_ms)
    assert due(table, None, first) == first
    assert due(table, None, first.add(seconds=1)) == second


def test_the_first_run_waits_and_a_pause_leaves_one_run_where_it_belongs() -> None:
    table, now = EveryPartitions(PartitionClock(HOUR_MS), 7), pendulum.now("UTC")
    coming = due(table, None)
    assert now < coming <= now.add(hours=7)
    assert due(table, now.subtract(days=30)) in {coming.subtract(hours=7), coming}


def test_a_cadence_is_cron_or_a_count_that_the_scheduler_can_read() -> None:
    from airflow.serialization.decoders import decode_timetable
    from airflow.serialization.encoders import encode_timetable

    clock = CLOCKS["six hours from 2"]
    assert isinstance(cadence("0 2 * * 0", clock), CronTriggerTimetable)
    read = decode_timetable(encode_timetable(cadence("every 28 partitions", clock)))
    assert isinstance(read, EveryPartitions)
    assert (read.clock, read.count, read.summary) == (clock, 28, "every 28 partitions")


@pytest.mark.parametrize("kind", ["data", "vm_feed", "vm_shop", "fm", "maintenance"])
@pytest.mark.parametrize("after", [timedelta(seconds=1), timedelta(minutes=30)], ids=["a second", "half an hour"])
def test_a_dag_that_is_switched_on_waits_for_its_next_tick(
    kind: str, after: timedelta, project_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = project_dags(str(project_file))[f"small_{kind}"]
    dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(declared))
    sunday = pendulum.datetime(2026, 1, 4)
    tick = {"vm_feed": sunday.add(hours=1), "vm_shop": sunday.add(hours=1), "fm": sunday.add(hours=2)}
    tick |= {"data": sunday, "maintenance": sunday.add(hours=3)}
    monkeypatch.setattr("airflow.timetables.trigger.utcnow", lambda: tick[kind] + after)
    coming = dag.next_dagrun_info(last_automated_run_info=None)
    assert coming is not None
    assert coming.run_after == tick[kind].add(days=7 if kind == "fm" else 1)
