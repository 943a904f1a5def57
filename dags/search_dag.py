"""The search Dag of a vertical, started by hand: batches of trials, then the winner's gate."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task

from dags.project import UNTIL_PARAM, Project
from dags.runner import VerbOperator
from dags.vm_dag import gate_steps
from pipelines.orchestration.airflow_env import TRAINER_POOL

DOC = """Searches a better VM of the vertical and puts the winner through the gate.

Trials run in batches, one mapped task each; a batch that is tried again goes on with the trials that it lacks.
"""


def search_dag(project: Project, vertical: str) -> DAG:
    """Score the champion, batches of trials one after the other, the winner; for one evaluate, gate, promote."""
    params = {
        "part": UNTIL_PARAM,
        "trials": Param(100, type="integer", minimum=1, description="VMs to train"),
        "batch": Param(10, type="integer", minimum=1, description="Trials of one task"),
        "method": Param("predictor", type="string", description="How to search: see docs/search.md"),
        "time_limit": Param(
            3600, type="integer", minimum=1, description="Seconds after which a trial counts as failed"
        ),
    }
    with project.dag(f"search_{vertical}", f"{vertical}: {DOC}", schedule=None, params=params) as dag:
        of = (
            "--vertical", vertical, "--until", "{part}",
            "--trials", "{{ params.trials }}", "--method", "{{ params.method }}",
            "--time-limit", "{{ params.time_limit }}",
        )  # fmt: skip
        score = project.step(
            "score", "The champion on partitions that became mature, before it can be replaced.",
            "--part", "{part}", newest_closed=True,
        )  # fmt: skip
        trials = VerbOperator.partial(
            task_id="trials",
            verb="search",
            conf=project.path,
            newest_closed=True,
            pool=TRAINER_POOL,
            max_active_tis_per_dagrun=1,
            doc_md="One batch of trials: MLflow runs below the search's own.",
        ).expand(arguments=_batches(of))
        winner = project.step("search", "The winner becomes the challenger.", *of, newest_closed=True)
        score >> trials >> winner >> gate_steps(project, vertical, winner)
    return dag


def _batches(of: tuple[str, ...]) -> Any:
    @task(task_id="batches")
    def batches() -> list[list[str]]:
        """Arguments of each batch: the trials that the search has when it ends."""
        params = get_current_context()["params"]
        trials, batch = int(params["trials"]), int(params["batch"])
        ends = [*range(batch, trials, batch), trials]
        given = {f"{{{{ params.{name} }}}}": str(params[name]) for name in ("trials", "method", "time_limit")}
        return [[*(given.get(word, word) for word in of), "--stop-after", str(end)] for end in ends]

    return batches()
