"""The VM Dag of a vertical: train, evaluate, gate, promote."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, PokeReturnValue, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from dags.project import UNTIL_PARAM, Project
from dags.runner import part_of
from dags.timetable import cadence
from pipelines.errors import StepError

DOC = """Trains the vertical's recipe on the newest window, in its champion's space, and puts it through the gate.

Passed: it is promoted. Held (too few positives to tell): a person approves it under *Required actions*. Failed: the run
ends with the gate's reasons. With the parameter `compare` every arm is measured and the report is written too.
"""
WAIT = timedelta(hours=12)
TRAIN, EVALUATE, GATE = "train_vm", "evaluate", "gate"


def vm_dag(project: Project, vertical: str) -> DAG:
    """Score the champion, wait for features, train, evaluate, gate, promote."""
    params = {
        "part": UNTIL_PARAM,
        "compare": Param(False, type="boolean", description="Measure every arm and write the report"),
    }
    settings = project.config.schedule
    schedule = cadence(settings.train_vm_own.get(vertical, settings.train_vm), project.config.dataset.clock)
    with project.dag(f"vm_{vertical}", f"{vertical}: {DOC}", schedule=schedule, params=params) as dag:
        score = project.step(
            "score", "The champion on partitions that became mature, before it can be replaced.",
            "--part", "{part}", newest_closed=True,
        )  # fmt: skip
        train = project.step(
            "train-vm", "The recipe on the newest window whose labels are known.",
            "--vertical", vertical, "--until", "{part}", newest_closed=True,
        )  # fmt: skip
        _wait(project, vertical) >> score >> train
        gated = gate_steps(project, vertical, train)
        train >> gated
        _comparison(project, vertical, train)
    return dag


def gate_steps(project: Project, vertical: str, train: Any, always_ask: bool = False) -> Any:
    """Evaluate and gate what ``train`` made, and promote it as the verdict says; the first of these tasks.

    Args:
        always_ask: a person approves even what has passed.
    """
    trained = train.task_id
    version = f"{{{{ ti.xcom_pull(task_ids='{trained}')['version'] }}}}"
    test = f"ti.xcom_pull(task_ids='{trained}')['test']"
    of = ("--vertical", vertical)
    evaluate = project.step(
        "evaluate", "Champion and new version on the test window.",
        *of, "--from", f"{{{{ {test}[0] }}}}", "--to", f"{{{{ {test}[-1] }}}}", "--version", version,
    )  # fmt: skip
    gate = project.step("gate", "May it replace the champion? NE, gAUC, calibration.", *of, "--version", version)
    verdict = f"ti.xcom_pull(task_ids='{gate.task_id}')"
    approve = ApprovalOperator(
        task_id="approve",
        subject=f"{project.config.name} / {vertical}: promote version {version}?",
        body=f"**{{{{ {verdict}['verdict'] }}}}**: {{{{ {verdict}['reasons'] | join('; ') }}}}\n\n"
        f"{{{{ {verdict}['metrics'] }}}}",
        ignore_downstream_trigger_rules=True,
        doc_md="A person decides. Approve moves the champion alias; reject leaves everything as it is.",
        retries=0,
    )
    approved = project.step(
        "promote", "The champion alias moves; the old champion is the way back.",
        *of, "--version", version, "--approve", task_id="promote_approved",
    )  # fmt: skip
    evaluate >> gate
    approve >> approved
    if always_ask:
        gate >> approve
        return evaluate
    promote = project.step("promote", "The champion alias moves.", *of, "--version", version)
    choose = _choose(gate.task_id, promote.task_id, approve.task_id)
    gate >> choose >> [promote, approve]
    return evaluate


def _choose(gate: str, promote: str, approve: str) -> Any:
    @task.branch(task_id="verdict")
    def choose() -> str:
        """Passed: promote. Held: ask a person."""
        verdict = get_current_context()["ti"].xcom_pull(task_ids=gate)
        print(f"{verdict['verdict']}: {'; '.join(verdict['reasons'])}")
        return promote if verdict["verdict"] == "passed" else approve

    return choose()


def _wait(project: Project, vertical: str) -> Any:
    @task.sensor(poke_interval=60, timeout=WAIT.total_seconds(), mode="reschedule", task_id="wait")
    def wait() -> PokeReturnValue:
        """Wait until the ledger names the features of the newest closed partition as done."""
        from pipelines.orchestration.readiness import features_ready

        part = part_of(project.path, get_current_context(), newest_closed=True)
        try:
            reason = features_ready(project.path, vertical, part)
        except StepError as error:
            raise AirflowFailException(str(error)) from error
        print(reason or f"features are written up to {part}")
        return PokeReturnValue(is_done=reason is None, xcom_value=part)

    return wait()


def _comparison(project: Project, vertical: str, train: Any) -> None:
    @task.short_circuit(task_id="asked_to_compare")
    def asked_to_compare() -> bool:
        """Only runs with the parameter `compare` measure every arm."""
        return bool(get_current_context()["params"]["compare"])

    compare = project.step(
        "compare", "Every arm on the same test rows.",
        "--vertical", vertical, "--until", "{part}", newest_closed=True,
    )  # fmt: skip
    train >> asked_to_compare() >> compare >> project.step("report", "The HTML report of all verticals.")
