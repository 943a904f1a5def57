"""MLflow: one run per training, one registered model per vertical and for the FM, aliases champion and challenger.

A retried training finds its earlier run and version by an idempotency tag instead of making second ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import TRACKING_SETTING
from pipelines.errors import StepError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException

CHAMPION = "champion"
TRAINED_UNTIL = "loopfm.trained_until"
"""Tag of a model: the newest partition that it trained or validated on."""
GATE_TAG = "loopfm.gate"
"""Tag of a model: the gate's verdict on it."""
CHALLENGER = "challenger"
ROLLBACK = "rollback"
IDEMPOTENCY_TAG = "loopfm.idempotency"
PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own: its pages show runs below the one that this tag names."""
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for a model or version, and for an alias, that does not exist."""


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry and the run that made it."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]


class ModelRegistry:
    """Runs and registered models of one project.

    Args:
        tracking_uri: MLflow's address; ``sqlite:///FILE`` or a server.
        artifact_root: where artifacts go when the experiment is first made.
        experiment: the project's name.
    """

    def __init__(self, tracking_uri: str, artifact_root: str, experiment: str) -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        self.experiment = experiment

    @cached_property
    def client(self) -> MlflowClient:
        """The MLflow client, made on first use."""
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        import mlflow

        # mlflow writes the address into the environment, where the next project of this process would read it.
        before = os.environ.get(TRACKING_SETTING)
        mlflow.set_tracking_uri(self.tracking_uri)
        os.environ.pop(TRACKING_SETTING, None)
        if before is not None:
            os.environ[TRACKING_SETTING] = before
        return mlflow.MlflowClient(self.tracking_uri)

    @cached_property
    def experiment_id(self) -> str:
        """Id of the project's experiment, made on first use."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(self.experiment, artifact_location=self.artifact_root))
        except MlflowException:
            made = self.client.get_experiment_by_name(self.experiment)
            if made is None:
                raise
            return str(made.experiment_id)

    def finished_run(self, idempotency: str) -> Run | None:
        """The finished run of exactly this training, if there is one."""
        runs = self._runs(idempotency)
        return next((run for run in runs if run.info.status == "FINISHED"), None)

    def unfinished_run(self, idempotency: str) -> Run | None:
        """The run of an earlier try of exactly this training that did not finish, if there is one."""
        return next((run for run in self._runs(idempotency) if run.info.status != "FINISHED"), None)

    def open_run(self, name: str, idempotency: str, tags: Mapping[str, str]) -> str:
        """Id of a run that counts as running from now on; an unfinished one of an earlier try is taken over."""
        unfinished = self.unfinished_run(idempotency)
        if unfinished is None:
            all_tags = {**tags, IDEMPOTENCY_TAG: idempotency}
            return str(self.client.create_run(self.experiment_id, run_name=name, tags=all_tags).info.run_id)
        self.client.update_run(unfinished.info.run_id, status="RUNNING")
        return str(unfinished.info.run_id)

    def close_run(self, run_id: str) -> None:
        """Mark a run as finished."""
        self.client.set_terminated(run_id, "FINISHED")

    @contextmanager
    def run(self, name: str, idempotency: str, tags: Mapping[str, str]) -> Iterator[str]:
        """Run id of a training, opened as by ``open_run``. Finished after the body, failed when it raises."""
        run_id = self.open_run(name, idempotency, tags)
        try:
            yield run_id
        except BaseException:
            self.client.set_terminated(run_id, "FAILED")
            raise
        self.close_run(run_id)

    def fail_children(self, parent_run_id: str) -> None:
        """Mark runs below a parent that still count as running, whose processes are gone, as failed."""
        query = f"tags.`{PARENT_TAG}` = '{parent_run_id}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.experiment_id], query):
            self.client.set_terminated(run.info.run_id, "FAILED")

    def log(self, run_id: str, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Parameters (cut to MLflow's length) and finite metrics of a run."""
        from mlflow.entities import Metric, Param

        logged = [Param(key, str(value)[:6000]) for key, value in params.items()]
        values = [Metric(key, float(value), 0, 0) for key, value in metrics.items() if value == value]
        self.client.log_batch(run_id, metrics=values, params=logged)

    def log_curve(self, run_id: str, metric: str, values: list[float]) -> None:
        """One metric over epochs."""
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=[Metric(metric, float(v), 0, step) for step, v in enumerate(values)])

    def curve(self, run_id: str, metric: str) -> list[float]:
        """What ``log_curve`` logged."""
        points = self.client.get_metric_history(run_id, metric)
        return [point.value for point in sorted(points, key=lambda point: point.step)]

    def log_files(self, run_id: str, folder: Path, artifact_path: str) -> None:
        """Copy a folder into the run's artifacts."""
        self.client.log_artifacts(run_id, str(folder), artifact_path)

    def register(self, name: str, run_id: str, artifact_path: str, tags: Mapping[str, str]) -> RegisteredModel:
        """A version of ``name`` for this run; a second call for the same run returns the first version."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for version in self.client.search_model_versions(f"name = '{name}'"):
            if version.run_id == run_id:
                return _model(version)
        source = f"runs:/{run_id}/{artifact_path}"
        return _model(self.client.create_model_version(name, source=source, run_id=run_id, tags=dict(tags)))

    def by_alias(self, name: str, alias: str) -> RegisteredModel | None:
        """The version that an alias names, or None.

        Raises:
            MlflowException: the store did not answer. That is no answer of None: a champion would be replaced without a
                comparison, its space closed and its files removed.
        """
        from mlflow.exceptions import MlflowException

        try:
            return _model(self.client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if not is_absent(error):
                raise
            return None

    def by_version(self, name: str, version: str) -> RegisteredModel:
        """One version.

        Raises:
            StepError: no such version; the message lists those there are.
        """
        from mlflow.exceptions import MlflowException

        try:
            return _model(self.client.get_model_version(name, version))
        except MlflowException as error:
            if not is_absent(error):
                raise
            raise StepError(f"{name}: no version {version}; there are {self.versions(name)}") from error

    def models(self, name: str) -> list[RegisteredModel]:
        """All versions of a model, newest first."""
        return [_model(version) for version in self.client.search_model_versions(f"name = '{name}'")]

    def versions(self, name: str) -> list[str]:
        """All version numbers of a model, newest first."""
        return [model.version for model in self.models(name)]

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        self.client.set_registered_model_alias(name, alias, version)

    def tag_version(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        for key, value in tags.items():
            self.client.set_model_version_tag(name, version, key, value)

    def fetch(self, model: RegisteredModel, folder: Path) -> Path:
        """Copy a version's files into ``folder``; nothing else is needed to load it."""
        import mlflow

        folder.mkdir(parents=True, exist_ok=True)
        uri = f"models:/{model.name}/{model.version}"
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))

    def fetch_run_files(self, run_id: str, artifact_path: str, folder: Path) -> Path:
        """Copy a run's artifact folder into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run_id, artifact_path, str(folder)))

    def run_tags(self, run_id: str) -> dict[str, str]:
        """Tags of a run."""
        return dict(self.client.get_run(run_id).data.tags)

    def run_metrics(self, run_id: str) -> dict[str, float]:
        """Latest metrics of a run."""
        return dict(self.client.get_run(run_id).data.metrics)

    def runs_with(self, tags: Mapping[str, str]) -> list[Run]:
        """Finished runs that carry all these tags, newest first."""
        wanted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        query = " and ".join([*wanted, "attributes.status = 'FINISHED'"])
        return list(self.client.search_runs([self.experiment_id], query, order_by=["attributes.start_time DESC"]))

    def _runs(self, idempotency: str) -> list[Run]:
        query = f"tags.`{IDEMPOTENCY_TAG}` = '{idempotency}'"
        return list(self.client.search_runs([self.experiment_id], query))


def is_absent(error: MlflowException) -> bool:
    """Whether MLflow answered that no such model, version or alias exists; any other error tells nothing of that."""
    return error.error_code in ABSENT


def _model(version: ModelVersion) -> RegisteredModel:
    return RegisteredModel(version.name, str(version.version), str(version.run_id), dict(version.tags or {}))
