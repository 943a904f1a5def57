"""Runs one task of a project's data Dag with ``dag.test()``: CONF TASK PART FILE; its log is what this process prints.

The task, with its verb and arguments, is alone in a Dag, whose bundle is the folder of FILE. FILE gets the task's state
and the number of its last try.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import cast

BUNDLES_SETTING = "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"
DAG_FILE = """# Airflow's search for Dags
from tests.dags.one_task import make_dag

dag = make_dag({conf!r}, {task!r})
"""


def make_dag(conf: str, task: str) -> object:
    """A Dag that holds the task alone."""
    from dags.data_dag import data_dag
    from dags.project import PART_PARAM, Project
    from dags.runner import VerbOperator

    project = Project.load(conf)
    step = cast(VerbOperator, data_dag(project).get_task(task))
    with project.dag("one", f"{task} alone", params={"part": PART_PARAM}) as dag:
        project.step(step.verb, "", *step.arguments, on_failure_callback=step.on_failure_callback)
    return dag


def main() -> None:
    conf, task, part, target = sys.argv[1:]
    bundle = Path(target).parent / "bundle"
    bundle.mkdir()
    (bundle / "one.py").write_text(DAG_FILE.format(conf=conf, task=task))
    classpath = "airflow.dag_processing.bundles.local.LocalDagBundle"
    # Airflow reads its settings when it is imported.
    os.environ[BUNDLES_SETTING] = json.dumps([{"name": "one", "classpath": classpath, "kwargs": {"path": str(bundle)}}])
    from airflow.sdk import DAG

    run = cast(DAG, make_dag(conf, task)).test(run_conf={"part": part})
    found = run.get_task_instance(task)
    assert found is not None
    Path(target).write_text(json.dumps({"state": found.state, "tries": found.try_number}))


if __name__ == "__main__":
    main()
