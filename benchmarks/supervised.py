"""``python -m benchmarks.supervised VERB CONF ARGUMENTS``: a verb as a task runs it, with a process that watches it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from dags.runner import VerbOperator


def main(arguments: list[str]) -> None:
    """Run the operator of every step, without an Airflow around it."""
    verb, conf, *rest = arguments
    task = SimpleNamespace(dag_id="faults", run_id="supervised", task_id=verb, map_index=-1)
    VerbOperator(task_id=verb, verb=verb, conf=conf, arguments=rest).execute({"ti": task, "params": {}})


if __name__ == "__main__":
    main(sys.argv[1:])
