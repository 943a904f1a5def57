"""Maintenance: spaces, files, report."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from dags.project import Project
from dags.timetable import cron_cadence

DOC = """Closes spaces that nobody names, merges small files of closed partitions, and removes files that no champion,
rollback target or challenger was trained on; then the report.
"""


def maintenance_dag(project: Project) -> DAG:
    """close-spaces, maintain, report."""
    schedule = cron_cadence(project.config.schedule.maintenance)
    with project.dag("maintenance", DOC, schedule=schedule) as dag:
        close = project.step("close-spaces", "Spaces that no champion, rollback target or challenger names.")
        maintain = project.step("maintain", "Compaction of closed partitions, expiry of closed spaces, vacuum.")
        close >> maintain >> _was_compared(project) >> project.step("report", "The HTML report.")
    return dag


def _was_compared(project: Project) -> Any:
    @task.short_circuit(task_id="was_compared")
    def was_compared() -> bool:
        """A report shows a comparison of arms; before the first there is none to write."""
        from pipelines.build_report import has_comparison
        from pipelines.context import RunContext

        return has_comparison(RunContext.load(project.path))

    return was_compared()
