"""What every step is given: the project's settings, its tables, its models, a Spark session on demand, and progress."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from feature_store.commits import Pin
from feature_store.config import DatasetConfig
from feature_store.object_store import on_s3, s3_uri
from feature_store.sources.paths import data_root
from feature_store.spaces import SpaceRecord, SpaceRegistry
from feature_store.tables import TableStore
from pipelines.config import HOME_SETTING, TRACKING_SETTING, ProjectConfig, home, load_config
from pipelines.errors import ConfigError, StepError
from pipelines.fm_declaration import FmDeclaration
from pipelines.registry import ModelRegistry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SCRATCH_SETTING = "LOOPFM_SCRATCH"
COMMIT_SETTING = "LOOPFM_COMMIT"
Progress = Callable[[str], None]


@dataclass
class RunContext:
    """Everything a step reads besides its partitions.

    Args:
        config: the project, validated.
        origin: the YAML file it came from, for messages.
        root: folder or URI below which tables, models and MLflow's local store lie.
        progress: gets one line at a time while a step works.
        run_id: names this invocation in the ledger (an Airflow run id, or ``cli``).
        tracking_uri: MLflow's address; by default MLFLOW_TRACKING_URI, and where that is not set a file below ``root``.
    """

    config: ProjectConfig
    origin: str
    root: str = field(default_factory=home)
    progress: Progress = print
    run_id: str = "cli"
    tracking_uri: str | None = None

    @classmethod
    def load(cls, path: str | Path, **settings: object) -> RunContext:
        """Context of the project that a YAML file declares."""
        return cls(load_config(path), str(path), **settings)  # type: ignore[arg-type]

    @property
    def dataset(self) -> DatasetConfig:
        """The data contract."""
        return self.config.dataset

    @property
    def folder(self) -> str:
        """Folder or URI of this project."""
        return f"{self.root.rstrip('/')}/{self.config.name}"

    @cached_property
    def scratch(self) -> Path:
        """Local folder for copies of model files; safe to delete at any time."""
        default = self.root if "://" not in self.root else "~/.cache/loopfm/scratch"
        base = Path(os.environ.get(SCRATCH_SETTING) or default).expanduser()
        path = base.resolve() / self.config.name / "scratch"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @cached_property
    def store(self) -> TableStore:
        """The Delta tables and their ledger."""
        return TableStore(f"{self.folder}/tables", self.dataset)

    @cached_property
    def spaces(self) -> SpaceRegistry:
        """Spaces of this project."""
        return SpaceRegistry(self.store)

    @property
    def on_s3(self) -> bool:
        """Whether tables or sources lie on an S3-compatible store."""
        sources = re.findall(r'"(s3a?://)', self.dataset.source.model_dump_json())
        return bool(sources) or on_s3(self.root) or on_s3(data_root())

    @cached_property
    def spark(self) -> SparkSession:
        """The Spark session, started on first use and shared by the steps of this process."""
        from feature_store.session import spark_session

        return spark_session(f"loopfm {self.config.name}", s3=self.on_s3)

    @cached_property
    def registry(self) -> ModelRegistry:
        """MLflow's runs and models of this project.

        Raises:
            ConfigError: tables lie on an object store and no MLflow server is set: a database file cannot lie there.
        """
        base = self.root if "://" in self.root else str(Path(self.root).resolve())
        if "://" not in self.root:
            Path(base).mkdir(parents=True, exist_ok=True)
        uri = self.tracking_uri or os.environ.get(TRACKING_SETTING)
        if not uri and "://" in self.root:
            raise ConfigError(
                f"{TRACKING_SETTING} is not set; with {HOME_SETTING}={self.root} it must name an MLflow server, as in "
                "http://mlflow:5000"
            )
        artifacts = f"{s3_uri(base)}/artifacts/{self.config.name}"
        return ModelRegistry(uri or f"sqlite:///{base}/mlflow.db", artifacts, f"loopfm-{self.config.name}")

    @cached_property
    def commit(self) -> str:
        """Hash of the code's commit, or ``unknown``; recorded, never a reason to recompute.

        An image, which holds no checkout, names its commit in LOOPFM_COMMIT.
        """
        if COMMIT_SETTING in os.environ:
            return os.environ[COMMIT_SETTING]
        if shutil.which("git") is None:
            return "unknown"
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or "unknown"

    @cached_property
    def inputs_id(self) -> str:
        """Digest of the FM's feature declaration: spaces with the same one share fm_inputs."""
        return FmDeclaration.of(self.dataset).inputs_id

    def pin(self, table: str, scope: dict[str, str], parts: list[str]) -> Pin:
        """Delta version of ``table`` to read for ``parts``, all of which must be done.

        Raises:
            MissingInputError: names the partitions that are not, and the command that makes them.
        """
        pinned = self.store.pin(table, scope, parts)
        if pinned is None:
            raise StepError(f"{table}: never written under {self.store.root}")
        return pinned

    def vm_name(self, vertical: str) -> str:
        """Name of a vertical's registered model."""
        self.require_vertical(vertical)
        return f"loopfm-{self.config.name}-{vertical}"

    @property
    def fm_name(self) -> str:
        """Name of the FM's registered model."""
        return f"loopfm-{self.config.name}-fm"

    def require_vertical(self, vertical: str) -> None:
        """Raise StepError, naming those there are, unless ``vertical`` is declared."""
        if vertical not in self.dataset.verticals:
            raise StepError(f"{self.origin}: no vertical {vertical!r}; there are {self.dataset.heads}")

    def space(self, space_id: str | None = None) -> SpaceRecord:
        """The named space, or the newest active one.

        Raises:
            StepError: there is none yet, or none of that name.
        """
        active = self.spaces.active()
        if space_id is not None:
            return self.spaces.get(space_id)
        if not active:
            raise StepError(f"{self.origin}: no active space: run `loopfm train-fm {self.origin} ...` first")
        return active[-1]
