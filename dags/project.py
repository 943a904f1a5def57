"""What all Dags of one project share: its settings, names, defaults and the steps they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert

from dags.alarms import AlarmNotifier
from dags.deadline import PartitionClosed
from dags.runner import VerbOperator
from pipelines.config import ProjectConfig, load_config
from pipelines.fm_declaration import has_batch_fm
from pipelines.orchestration.airflow_env import SPARK_POOL, TRAINER_POOL

SPARK_STEPS = {"check", "ingest", "fm-inputs", "infer", "segments", "features", "backfill", "write"}
"""Steps that start Spark: ``backfill``, to plan, where only Spark can tell which rows of the source came late."""
TRAINER_STEPS = {"train-fm", "train-vm", "search", "compare"}
DEFAULTS = {"owner": "loopfm", "retries": 2, "retry_delay": timedelta(seconds=10)}
PART_PARAM = Param(
    None, type=["null", "string"], description="Partition, such as 2026-01-09 (default: the run's partition key)"
)
UNTIL_PARAM = Param(
    None, type=["null", "string"], description="Newest partition to use (default: the newest that has closed)"
)


@dataclass(frozen=True)
class Project:
    """One YAML file and how its Dags are named."""

    path: str
    config: ProjectConfig

    @classmethod
    def load(cls, path: str) -> Project:
        """Read and validate the file."""
        return cls(path, load_config(path))

    def dag_id(self, kind: str) -> str:
        """PROJECT_KIND."""
        return f"{self.config.name}_{kind}"

    def dag(self, kind: str, doc: str, **settings: Any) -> DAG:
        """An empty Dag; one run at a time, since the ledger orders partitions."""
        return DAG(
            dag_id=self.dag_id(kind),
            description=doc.split("\n")[0],
            doc_md=f"{doc}\n\nSettings: `{self.path}`",
            default_args=DEFAULTS | settings.pop("default_args", {}),
            tags=["loopfm", self.config.name],
            catchup=settings.pop("catchup", False),
            max_active_runs=1,
            render_template_as_native_obj=False,
            **settings,
        )

    def step(self, verb: str, doc: str, *arguments: str, task_id: str | None = None, **settings: Any) -> VerbOperator:
        """A task that runs one verb, in the pool of what it loads."""
        operator = settings.pop("operator", VerbOperator)
        pool = SPARK_POOL if self._starts_spark(verb) else TRAINER_POOL if verb in TRAINER_STEPS else "default_pool"
        made: VerbOperator = operator(
            task_id=task_id or verb.replace("-", "_"),
            verb=verb,
            conf=self.path,
            arguments=arguments,
            pool=pool,
            doc_md=doc,
            **settings,
        )
        return made

    def _starts_spark(self, verb: str) -> bool:
        """A comparison does where it writes what an FM on batch features reads."""
        compares_batch_fm = verb == "compare" and has_batch_fm(self.config.dataset, self.config.fm)
        return verb in SPARK_STEPS or compares_batch_fm

    def deadline(self) -> DeadlineAlert | None:
        """Alarm for a scheduled partition that is not ready when the lag that readers are promised is over."""
        dataset = self.config.dataset
        if not dataset.lag:
            return None
        lag = timedelta(milliseconds=dataset.lag)
        text = f"{self.dag_id('data')}: partition {{{{ dag_run.partition_key }}}} is not ready {lag} after it closed"
        return DeadlineAlert(
            reference=PartitionClosed(dataset.clock.grain_ms, dataset.lag),
            interval=lag,
            callback=AsyncCallback(AlarmNotifier, kwargs={"text": text}),
        )

    def closes(self, part: str, *, last: bool = False) -> datetime:
        """When a partition, or the first (``last``: the last) one of a day, closes: its run is due then."""
        clock = self.config.dataset.clock
        end = clock.end(clock.span(part, part)[1 if last else 0])
        return datetime.fromtimestamp(end / 1000, UTC)
