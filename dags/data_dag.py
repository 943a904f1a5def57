"""The data Dag: one run per partition, from the source to features of every active space and live figures."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, PokeReturnValue, get_current_context, task, task_group

from dags.alarms import WatchOperator, failure_alarm
from dags.project import PART_PARAM, Project
from dags.runner import part_of
from dags.timetable import PartitionTimetable
from pipelines.orchestration.readiness import source_ready

DOC = """One partition, from the source to features.

A run's partition is its partition key (`airflow backfill create` makes one a partition, from the first to the last day
included), else the parameter `part`, else the partition that holds its logical date. Every step replaces whole
partitions: a run may be repeated or cleared at any task. Late source rows re-open their own partitions here.
"""
POKE_SECONDS = 60
WAIT = timedelta(days=1)


def data_dag(project: Project) -> DAG:
    """Wait, check, ingest, fm-inputs; per active space infer, segments and features; score; watch."""
    timetable = PartitionTimetable(project.config.dataset.clock, project.config.schedule.late)
    with project.dag("data", DOC, schedule=timetable, params={"part": PART_PARAM}, **_settings(project)) as dag:
        one = ("--from", "{part}", "--to", "{part}")
        check = project.step(
            "check", "Profile of the partition's source rows, and what would be set aside.", *one, "--record"
        )
        ingest = project.step(
            "ingest", "Source rows to examples, labels and quarantine; late rows re-open their partition.",
            "--from", "{part}", "--reopened",
        )  # fmt: skip
        inputs = project.step("fm-inputs", "Every column that the FM reads.", "--from", "{part}", "--reopened")
        raw = project.step(
            "segments", "Newest raw tokens of each key.", "--from", "{part}", "--reopened", "--space", "raw",
            task_id="raw_segments",
        )  # fmt: skip
        spaces = _active_spaces(project)
        written = _space_steps(project).expand(space=spaces)
        score = project.step(
            "score", "Champions on every partition whose labels have just become known, before anything retrains.",
            "--part", "{part}", trigger_rule="none_failed",
        )  # fmt: skip
        watch = project.step(
            "watch", "Alarms: lag breach, quarantine share, drift of vectors, calibration of champions.",
            "--part", "{part}", operator=WatchOperator,
        )  # fmt: skip
        _wait(project) >> check >> ingest >> inputs >> raw >> spaces
        raw >> written >> score >> watch
    return dag


def _settings(project: Project) -> dict[str, Any]:
    schedule = project.config.schedule
    return {
        "start_date": project.closes(schedule.first) if schedule.first else None,
        "end_date": project.closes(schedule.last, last=True) if schedule.last else None,
        "catchup": schedule.catchup,
        "deadline": project.deadline(),
        "default_args": {"on_failure_callback": failure_alarm()},
    }


def _wait(project: Project) -> Any:
    @task.sensor(poke_interval=POKE_SECONDS, timeout=WAIT.total_seconds(), mode="reschedule", task_id="wait")
    def wait() -> PokeReturnValue:
        """Wait until the source holds the partition: it has closed, and `schedule.ready` names a file that is there."""
        part = part_of(project.path, get_current_context())
        reason = source_ready(project.config, part)
        print(reason or f"the source holds {part}")
        return PokeReturnValue(is_done=reason is None, xcom_value=part)

    return wait()


def _active_spaces(project: Project) -> Any:
    @task
    def active_spaces() -> list[str]:
        """Spaces of champions, challengers and rollback targets: each gets its own outputs."""
        from pipelines.context import RunContext

        return [space.space_id for space in RunContext.load(project.path).spaces.active()]

    return active_spaces()


def _space_steps(project: Project) -> Any:
    @task_group(group_id="space")
    def space_steps(space: str) -> None:
        """Tables of one space."""
        reopened = ("--from", "{part}", "--reopened")
        infer = project.step("infer", "One FM pass per example.", *reopened, space=space)
        segments = project.step("segments", "Newest tokens of each key.", *reopened, space=space)
        features = project.step("features", "Rows and histories that VMs read.", *reopened, space=space)
        infer >> segments >> features

    return space_steps
