"""The operator of every step: runs one verb of the command line in a process of its own, its lines live in the log."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from dags.plugin import URL_PREFIX
from feature_store.errors import FeatureStoreError
from pipelines.config import load_config
from pipelines.errors import ADVICE, PipelineError
from pipelines.orchestration.airflow_env import MLFLOW_PORT, MLFLOW_PORT_SETTING, REPOSITORY
from pipelines.orchestration.facts import FACTS_SETTING, RUN_SETTING
from pipelines.orchestration.partition_key import closed_part, resolve_part

MLFLOW_UI_SETTING = "LOOPFM_MLFLOW_URL"
KNOWN_ERROR = re.compile(r"^loopfm \S+: (\w+): ")
RETRIED = {
    "SupersededError", "CommitLockError", "FeatureStoreError", "MissingInputError", "LostProcessError",
    "SparkStartError", "FullDiskError", "TrainingProcessError", "UnexpectedError",
}  # fmt: skip
"""Known errors that another try can cure: a newer attempt took over, a lock or a process was lost, or an input is just
being written again; and those that nobody foresaw."""
PARENT_DEATH_SIGNAL = 1
KEPT_LINES = 2000
"""A whole message must be among them, such as one that names every column of two schemas."""
NewestClosed = bool | Literal["now"]


class MlflowRunLink(BaseOperatorLink):
    """Button to the MLflow run that the task made."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the run; empty where the step trains nothing."""
        facts = getattr(operator, "facts", {})
        if "run_id" not in facts or "experiment" not in facts:
            return ""
        default = f"http://127.0.0.1:{os.environ.get(MLFLOW_PORT_SETTING, MLFLOW_PORT)}"
        base = os.environ.get(MLFLOW_UI_SETTING, default)
        return f"{base}/#/experiments/{facts['experiment']}/runs/{facts['run_id']}"


class ReportLink(BaseOperatorLink):
    """Button to the HTML report, which Airflow's API server shows (``dags.plugin.app``)."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the project's report; empty for steps that write none."""
        if "report" not in getattr(operator, "facts", {}):
            return ""
        return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}{URL_PREFIX}/report/{Path(operator.conf).stem}"


class VerbOperator(BaseOperator):
    """One step: ``loopfm VERB CONF ARGUMENTS`` in a process of its own.

    Args:
        verb: of the command line.
        conf: the project's YAML file.
        arguments: rendered by Jinja; ``{part}`` in them stands for the run's partition.
        space: space that the step writes (``--space``), which may be mapped.
        span: first and last partition (``--from``, ``--to``), which may be mapped.
        returns: the one fact that is the task's result; by default all facts are.
        newest_closed: the partition is the newest that had closed when the run was due (``"now"``: when the task
            starts), for Dags that make none.
    """

    template_fields: Sequence[str] = ("arguments", "space", "span")
    operator_extra_links = (MlflowRunLink(), ReportLink())
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        verb: str,
        conf: str,
        arguments: Sequence[str] = (),
        space: Any = None,
        span: Any = None,
        returns: str | None = None,
        newest_closed: NewestClosed = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.verb, self.conf, self.arguments = verb, conf, list(arguments)
        self.space, self.span, self.returns, self.newest_closed = space, span, returns, newest_closed
        self.facts: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> Any:
        """Run the verb; its facts (rows, versions, metrics, links) are the task's result.

        Raises:
            AirflowFailException: bad data, settings or a refused gate: another try would end the same.
            AirflowException: the process was lost, or a newer attempt took over: worth another try.
        """
        try:
            command = [sys.executable, "-m", "pipelines.cli", self.verb, self.conf, *self._arguments(context)]
        except (PipelineError, FeatureStoreError) as error:  # such as a partition that is none
            raise AirflowFailException(f"loopfm {self.verb}: {type(error).__name__}: {error}") from error
        with tempfile.TemporaryDirectory(prefix="loopfm-") as folder:
            target = Path(folder) / "facts.json"
            lines, status = self._run(command, self._environment(context, target))
            if status:
                _raise(status, lines, lambda reason: self._killed(context, reason, lines))
            self.facts = json.loads(target.read_text()) if target.exists() else {}
        if self.returns is None:
            return self.facts
        context["ti"].xcom_push(key="facts", value=self.facts)
        return self.facts[self.returns]

    def on_kill(self) -> None:
        """End the step's process with the task."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)

    def _arguments(self, context: Any) -> list[str]:
        shown = [str(argument) for argument in self.arguments if argument]
        if any("{part}" in argument for argument in shown):
            part = part_of(self.conf, context, newest_closed=self.newest_closed)
            self.log.info("partition %s", part)
            shown = [argument.replace("{part}", part) for argument in shown]
        if self.span is not None:
            shown += ["--from", str(self.span[0]), "--to", str(self.span[1])]
        return [*shown, "--space", str(self.space)] if self.space is not None else shown

    def _environment(self, context: Any, facts: Path) -> dict[str, str]:
        own = {FACTS_SETTING: str(facts), RUN_SETTING: self._run_id(context), "PYTHONUNBUFFERED": "1"}
        return {**os.environ, **own}

    def _killed(self, context: Any, reason: str, lines: list[str]) -> str:
        from pipelines.context import RunContext
        from pipelines.failures import killed, text_of

        of = RunContext.load(self.conf, run_id=self._run_id(context))
        named = re.findall(r"--(?:from|to|part|until) (\S+)", " ".join(self._arguments(context)))
        error = killed(of, reason, list(dict.fromkeys(named)), lines[-1] if lines else "")
        return f"loopfm {self.verb}: {text_of(error)}"

    def _run_id(self, context: Any) -> str:
        ti = context["ti"]
        mapped = [str(ti.map_index)] if ti.map_index is not None and ti.map_index >= 0 else []
        return "/".join([ti.dag_id, ti.run_id, ti.task_id, *mapped])

    def _run(self, command: list[str], environment: Mapping[str, str]) -> tuple[list[str], int]:
        self.log.info("loopfm %s", " ".join(command[3:]))
        self._process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        lines: deque[str] = deque(maxlen=KEPT_LINES)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.info(line.rstrip("\n"))
            lines.append(line.rstrip("\n"))
        return list(lines), self._process.wait()


def part_of(conf: str, context: Any, *, newest_closed: NewestClosed = False) -> str:
    """The partition of a Dag run (see ``pipelines.orchestration.partition_key``)."""
    clock, run = load_config(conf).dataset.clock, context["dag_run"]
    params = context["params"]
    if newest_closed and not params.get("part"):
        due = context.get("logical_date") or run.run_after
        return closed_part(clock, datetime.now(UTC) if newest_closed == "now" else due)
    return resolve_part(clock, getattr(run, "partition_key", None), params, context.get("logical_date"))


def _raise(status: int, lines: list[str], killed: Callable[[str], str]) -> None:
    starts = [place for place, line in enumerate(lines) if KNOWN_ERROR.match(line)]
    if starts:
        block = lines[starts[-1] :]
        ends = [place for place, line in enumerate(block) if line.startswith(ADVICE)]
        message = "\n".join(block[: ends[-1] + 1] if ends else block)
        found = KNOWN_ERROR.match(message)
        if found is not None and found[1] not in RETRIED:
            raise AirflowFailException(message)
        raise AirflowException(message)
    if status < 0:
        reason = f"its process was ended by signal {-status} ({signal.Signals(-status).name})"
    else:
        reason = f"its process ended with status {status}"
    raise AirflowException(killed(reason))


def _die_with_parent() -> None:
    """The step must not outlive a task that was killed: its JVM follows it."""
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)
