"""Alarms reach whoever listens, and a receiver that is away fails nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.serialization.decoders import decode_deadline_alert
from airflow.serialization.encoders import encode_deadline_alert

from dags.alarms import AlarmNotifier, WatchOperator
from dags.data_dag import data_dag
from dags.project import Project
from feature_store.clocks import HOUR_MS
from pipelines.orchestration.partition_key import follows_clock
from tests.dags.receiver import receiving


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    with receiving() as received:
        monkeypatch.setenv("LOOPFM_ALARM_URL", received.url)
        yield received.alarms


def test_an_alarm_is_posted_as_text(receiver: list[dict[str, str]]) -> None:
    AlarmNotifier(text="demo_data: lag 2026-01-09: late").notify({})
    asyncio.run(AlarmNotifier(text="from a deadline").async_notify({}))
    assert receiver == [{"text": "demo_data: lag 2026-01-09: late"}, {"text": "from a deadline"}]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/", "chat.example/hook", "http://chat.example:port/"])
def test_a_receiver_that_is_away_or_none_is_logged(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LOOPFM_ALARM_URL", address)
    AlarmNotifier(text="late").notify({})
    assert "ALARM late" in caplog.text
    assert "LOOPFM_ALARM_URL: the alarm could not be sent" in caplog.text


def run(run_type: str, begun: timedelta) -> SimpleNamespace:
    """A run of the partition of 9 January that is made ``begun`` after it closed."""
    due = datetime.now(UTC) - begun
    return SimpleNamespace(run_type=run_type, run_after=due, start_date=due + begun, partition_key="2026-01-09")


RUNS = {
    "scheduled": (run("scheduled", timedelta(0)), True, True),
    "scheduled, when the promise was over already": (run("scheduled", timedelta(hours=5)), True, True),
    "scheduled, after an outage or a slow run": (run("scheduled", timedelta(hours=30)), False, True),
    "scheduled, to catch up": (run("scheduled", timedelta(days=3)), False, False),
    "backfill": (run("backfill", timedelta(0)), False, False),
    "by hand": (run("manual", timedelta(0)), False, False),
}
"""Run, whether it has a deadline, whether it can breach the lag."""


@pytest.mark.parametrize("kind", RUNS)
def test_only_a_run_that_readers_wait_for_has_a_deadline(kind: str, project_file: Path) -> None:
    found, live, _ = RUNS[kind]
    declared = Project.load(str(project_file)).deadline()
    assert declared is not None
    read = decode_deadline_alert({"__type": "deadline_alert", "__var": encode_deadline_alert(declared)})
    session = SimpleNamespace(scalar=lambda query: found)
    deadline = read.reference.evaluate_with(session=session, interval=read.interval, dag_id="small_data", run_id="any")
    assert deadline == (found.run_after + timedelta(hours=1) if live else None)


@pytest.mark.parametrize("kind", RUNS)
def test_only_a_run_that_readers_wait_for_can_breach_the_lag(kind: str, project_file: Path) -> None:
    found, _, live = RUNS[kind]
    watch = data_dag(Project.load(str(project_file))).get_task("watch")
    assert isinstance(watch, WatchOperator)
    arguments = watch._arguments({"dag_run": found, "params": {}})
    assert arguments == ["--part", "2026-01-09", *(["--live"] if live else [])]


@pytest.mark.parametrize(("begun", "live"), [(timedelta(minutes=119), True), (timedelta(hours=2), False)])
def test_a_lag_longer_than_a_partition_keeps_a_run_live_until_it_is_over(begun: timedelta, live: bool) -> None:
    due = datetime(2026, 1, 9, tzinfo=UTC)
    assert follows_clock(HOUR_MS // 6, 2 * HOUR_MS, "scheduled", due, due + begun) == live


def test_a_slow_receiver_holds_up_no_other_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """``async_notify`` runs in the triggerer's one event loop."""
    answered, in_time = threading.Event(), []
    monkeypatch.setattr(AlarmNotifier, "notify", lambda self, context: in_time.append(answered.wait(5)))

    async def send() -> None:
        sending = asyncio.create_task(AlarmNotifier(text="late").async_notify({}))
        await asyncio.sleep(0.05)
        answered.set()
        await sending

    asyncio.run(send())
    assert in_time == [True], "the loop went on meanwhile"


def test_a_missed_deadline_names_the_partition(project_file: Path, receiver: list[dict[str, str]]) -> None:
    deadline = Project.load(str(project_file)).deadline()
    assert deadline is not None
    assert deadline.callback.path == "dags.alarms.AlarmNotifier"

    async def send() -> None:
        await AlarmNotifier(**deadline.callback.kwargs, context={"dag_run": {"partition_key": "2026-01-09"}})

    asyncio.run(send())
    assert receiver == [{"text": "small_data: partition 2026-01-09 is not ready 1:00:00 after it closed"}]


def test_a_failed_task_of_the_data_dag_is_an_alarm(project_file: Path, receiver: list[dict[str, str]]) -> None:
    """Too many rejects fail ingest: ``watch``, which tells of fewer, is not reached."""
    dag = data_dag(Project.load(str(project_file)))
    failed = {task.task_id: task.on_failure_callback for task in dag.tasks if task.on_failure_callback}
    assert set(failed) == {task.task_id for task in dag.tasks}
    (notify,) = failed["ingest"]
    ti = SimpleNamespace(dag_id="small_data", task_id="ingest")
    error = ValueError("loopfm ingest: BadDataError: small: 300 of 3000 rows were rejected, allowed are 5.0%")
    notify({"ti": ti, "dag_run": SimpleNamespace(partition_key="2026-01-09"), "params": {}, "exception": error})
    assert receiver == [{"text": f"small_data: ingest of 2026-01-09 failed: {error}"}]


@pytest.mark.slow
@pytest.mark.usefixtures("airflow_database")
def test_a_missed_deadline_goes_from_the_scheduler_through_the_triggerer(
    project_file: Path, receiver: list[dict[str, str]]
) -> None:
    """Airflow's own functions, from the parsed Dag to the callback: nothing but its two loops is left out."""
    from airflow.dag_processing.collection import update_dag_parsing_results_in_db
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.deadline import Deadline
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.triggers.callback import CallbackTrigger
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from sqlalchemy import select

    dag, due = data_dag(Project.load(str(project_file))), datetime.now(UTC) - timedelta(hours=2)
    dag.fileloc = dag.relative_fileloc = "small.py"
    with create_session() as session:
        session.add(DagBundleModel(name="loopfm"))
        session.flush()
        update_dag_parsing_results_in_db("loopfm", None, [LazyDeserializedDAG.from_dag(dag)], {}, None, set(), session)
        read = SerializedDagModel.get_dag("small_data", session=session)
        assert read is not None
        for kind, key in ((DagRunType.SCHEDULED, "2026-01-09"), (DagRunType.BACKFILL_JOB, "2026-01-08")):
            read.create_dagrun(
                run_id=f"{kind}__{key}", run_after=due, run_type=kind, state=DagRunState.RUNNING, partition_key=key,
                triggered_by=DagRunTriggeredByType.TIMETABLE, session=session,
            )  # fmt: skip
        session.flush()
        (missed,) = session.scalars(select(Deadline)).all()
        assert missed.deadline_time == due + timedelta(hours=1)
        missed.handle_miss(session)
        data = missed.callback.data

    async def answer() -> list[object]:
        return [event.payload async for event in CallbackTrigger(data["path"], dict(data["kwargs"])).run()]

    states = asyncio.run(answer())
    assert receiver == [{"text": "small_data: partition 2026-01-09 is not ready 1:00:00 after it closed"}], states
