"""Runs one task of a project's data Dag with ``dag.test()``: CONF TASK PART FILE; its log is what this process prints.

The task, with its verb and arguments, is alone in a Dag. FILE gets its state and the number of its last try.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import cast

from dags.data_dag import data_dag
from dags.project import PART_PARAM, Project
from dags.runner import VerbOperator


def main() -> None:
    conf, task, part, target = sys.argv[1:]
    project = Project.load(conf)
    step = cast(VerbOperator, data_dag(project).get_task(task))
    with project.dag("one", f"{task} alone", params={"part": PART_PARAM}) as dag:
        project.step(step.verb, "", *step.arguments)
    run = dag.test(run_conf={"part": part})
    found = run.get_task_instance(task)
    assert found is not None
    Path(target).write_text(json.dumps({"state": found.state, "tries": found.try_number}))


if __name__ == "__main__":
    main()
