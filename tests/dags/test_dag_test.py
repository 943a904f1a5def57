"""Dags run from end to end in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from dags.factory import project_dags

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("airflow_database")
def test_maintenance_of_an_empty_project_runs(project_file: Path) -> None:
    run = project_dags(str(project_file))["small_maintenance"].test()
    states = {ti.task_id: ti.state for ti in run.get_task_instances()}
    assert states == {"close_spaces": "success", "maintain": "success", "was_compared": "success", "report": "skipped"}
