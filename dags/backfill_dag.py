"""The backfill Dag: what is missing or stale over a range, in chunks of many partitions per Spark session."""

from __future__ import annotations

from airflow.sdk import DAG, Param, XComArg
from airflow.sdk.definitions.mappedoperator import MappedOperator

from dags.project import Project
from dags.runner import VerbOperator
from pipelines.orchestration.airflow_env import SPARK_POOL

DOC = """Writes what is missing or stale in a range, many partitions per Spark session. It trains and promotes nothing.

Started by `loopfm backfill CONF --from A --to B`, which first shows the plan. Run again, it goes on with what is left.
"""


def backfill_dag(project: Project) -> DAG:
    """Plan from the ledger, then one task a chunk, in time order, then what is left."""
    params = {
        "first": Param("", type="string", minLength=10, description="First partition or day"),
        "last": Param("", type="string", minLength=10, description="Last partition or day, included"),
        "space": Param("all", type="string", description="One space, or all active ones"),
    }
    with project.dag("backfill", DOC, schedule=None, params=params) as dag:
        span = "{{ params.first }}", "{{ params.last }}"
        write_planned(
            project, "What is missing or stale, why, and the chunks it is written in.", span, "{{ params.space }}"
        )
    return dag


def write_planned(project: Project, doc: str, span: tuple[str, str], space: str) -> tuple[VerbOperator, VerbOperator]:
    """The first and the last task of planning and writing the partitions of ``span``.

    A chunk that is tried again runs after later ones, which it makes stale: the last task writes them once more. It
    also runs where no chunk was needed, so that what follows is not skipped.
    """
    over = ("--from", span[0], "--to", span[1])
    plan = project.step("backfill", doc, *over, "--dry-run", task_id="plan", space=space, returns="chunks")
    rest = project.step(
        "write", "What a chunk that was tried again has left stale in later ones; usually nothing.",
        *over, task_id="write_rest", space=space, trigger_rule="none_failed",
    )  # fmt: skip
    plan >> write_chunks(project, space, plan.output) >> rest
    return plan, rest


def write_chunks(project: Project, space: str, chunks: XComArg) -> MappedOperator:
    """One mapped task a chunk: every step over its partitions, one chunk after the other."""
    return VerbOperator.partial(
        task_id="write",
        verb="write",
        conf=project.path,
        space=space,
        pool=SPARK_POOL,
        max_active_tis_per_dagrun=1,
        doc_md="Every step over one chunk of partitions in one Spark session; what is fresh is kept.",
    ).expand(span=chunks)
