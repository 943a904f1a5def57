"""From one YAML file to the project's Dags; nothing here knows a data set by name."""

from __future__ import annotations

from airflow.sdk import DAG

from dags.backfill_dag import backfill_dag
from dags.data_dag import data_dag
from dags.fm_dag import fm_dag
from dags.maintenance_dag import maintenance_dag
from dags.project import Project
from dags.search_dag import search_dag
from dags.vm_dag import vm_dag


def project_dags(path: str) -> dict[str, DAG]:
    """Dag id -> Dag of the project that ``path`` declares.

    Raises:
        ConfigError: the file is wrong; Airflow shows the message, which names file and field, as its import error.
    """
    project = Project.load(path)
    dags = [data_dag(project), backfill_dag(project), fm_dag(project), maintenance_dag(project)]
    for vertical in project.config.dataset.heads:
        dags += [vm_dag(project, vertical), search_dag(project, vertical)]
    return {dag.dag_id: dag for dag in dags}
