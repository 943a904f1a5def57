"""The FM refresh: a new FM, its space, and one hand-over a vertical."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, TaskGroup, get_current_context, task

from dags.backfill_dag import write_planned
from dags.project import UNTIL_PARAM, Project
from dags.timetable import cadence
from dags.vm_dag import gate_steps

CHAMPIONS = "champions"
OFFERED = "{{ (ti.xcom_pull(task_ids='train_fm') or {}).get('space', '') }}"
"""The new space; none where the FM's training failed, of which this task must not tell a second time."""
DOC = """Trains a new FM one VM window back, opens its space and fills it; no VM changes until a person says so.

Both spaces are written from then on. Each vertical with a champion gets a challenger on the new space, compared with
the champion on held-out partitions as whole pipelines, and is handed over on its own. The old space closes when neither
a champion nor a rollback target names it.
"""


def fm_dag(project: Project) -> DAG:
    """Score champions, train-fm, backfill of the new space, maps; per vertical train, compare, approve; close."""
    schedule = cadence(project.config.schedule.train_fm, project.config.dataset.clock)
    with project.dag("fm", DOC, schedule=schedule, params={"part": UNTIL_PARAM}) as dag:
        score = project.step(
            "score", "Champions on partitions that became mature, before anything retrains.",
            "--part", "{part}", newest_closed=True,
        )  # fmt: skip
        train = project.step(
            "train-fm", "FM and codec, with a cutoff one VM window back; opens the space.", "--until", "{part}",
            newest_closed=True,
        )  # fmt: skip
        space = "{{ ti.xcom_pull(task_ids='train_fm')['space'] }}"
        first, last = (f"{{{{ ti.xcom_pull(task_ids='train_fm')['{end}_output'] }}}}" for end in ("first", "last"))
        plan, written = write_planned(
            project, "The new space over all that is ingested after its FM's windows, in chunks.", (first, last), space
        )
        close = project.step(
            "close-spaces", "Spaces that nobody names any more; the new one too, if no champion took it.",
            "--offered", OFFERED,
        )  # fmt: skip
        change = project.step(
            "align", "Drift to the champions' space, maps, and what keeping, aligning or backfilling costs.",
            "--from-space", space,
        )  # fmt: skip
        score >> train >> plan
        champions = _champions(project)
        written >> champions >> _has_champion(project.config.dataset.heads) >> change >> close
        for vertical in project.config.dataset.heads:
            champions >> _hand_over(project, vertical, space) >> close
        close.as_teardown(on_failure_fail_dagrun=True)
    return dag


def _hand_over(project: Project, vertical: str, space: str) -> TaskGroup:
    with TaskGroup(vertical) as group:
        train = project.step(
            "train-vm", "The recipe on the new space, on the newest window: the champion is trained again meanwhile.",
            "--vertical", vertical, "--until", "{part}", newest_closed="now", space=space,
        )  # fmt: skip
        _has_champion([vertical]) >> train >> gate_steps(project, vertical, train, always_ask=True)
    return group


def _champions(project: Project) -> Any:
    @task(task_id=CHAMPIONS)
    def champions() -> list[str]:
        """Verticals that have a champion, by one look at the registry."""
        from pipelines.context import RunContext
        from pipelines.registry import CHAMPION

        context = RunContext.load(project.path)
        found = {v: context.registry.by_alias(context.vm_name(v), CHAMPION) for v in context.dataset.heads}
        space = get_current_context()["ti"].xcom_pull(task_ids="train_fm")["space"]
        for vertical, model in found.items():
            print(f"{vertical}: champion {model.version if model else 'none'}, offered space {space}")
        return [vertical for vertical, model in found.items() if model is not None]

    return champions()


def _has_champion(verticals: list[str]) -> Any:
    @task.short_circuit(task_id="has_champion", ignore_downstream_trigger_rules=False)
    def has_champion() -> bool:
        """Without a champion there is nothing to hand over: a vertical's VM Dag starts in the new space."""
        return bool({*get_current_context()["ti"].xcom_pull(task_ids=CHAMPIONS)} & {*verticals})

    return has_champion()
