"""From one YAML file to the project's Dags; nothing here knows a data set by name."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from airflow.sdk import DAG

from dags.backfill_dag import backfill_dag
from dags.data_dag import data_dag
from dags.fm_dag import fm_dag
from dags.maintenance_dag import maintenance_dag
from dags.project import Project
from dags.search_dag import search_dag
from dags.vm_dag import vm_dag
from pipelines.errors import ConfigError


def project_dags(path: str) -> dict[str, DAG]:
    """Dag id -> Dag of the project that ``path`` declares.

    Raises:
        ConfigError: the file is wrong, or another project has its name; Airflow shows the message, which names file and
            field, as its import error.
    """
    project = Project.load(path)
    _require_own_name(Path(path), project.config.name)
    dags = [data_dag(project), backfill_dag(project), fm_dag(project), maintenance_dag(project)]
    for vertical in project.config.dataset.heads:
        dags += [vm_dag(project, vertical), search_dag(project, vertical)]
    return {dag.dag_id: dag for dag in dags}


def _require_own_name(path: Path, name: str) -> None:
    """Of two files of one name, such as a copy that was not renamed, only one has Dags: the one that is called so."""
    others = [file for file in path.parent.glob("*.yaml") if file != path and _is_called(file, name)]
    owner = min([path, *others], key=lambda file: (file.stem != name, file.name))
    if owner != path:
        raise ConfigError(
            f"{path}: dataset.name: got {name!r}, which {owner} has too; allowed: a name of its own, since Dags, "
            "tables and models go by it"
        )


def _is_called(file: Path, name: str) -> bool:
    try:
        text = file.read_text(errors="replace")
        if re.search(rf"name:\s*[\"']?{name}\b", text) is None:  # parsing each file would cost every file its time
            return False
        return bool(yaml.safe_load(text)["dataset"]["name"] == name)
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return False
