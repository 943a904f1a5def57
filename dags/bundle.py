"""The Dag bundle: a loader for every YAML file of the projects' folder, so that a broken one breaks its own Dags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.base import BaseDagBundle

import dags.factory  # noqa: F401  (once, before processes are forked that parse: 1.5 s less for each file)
from pipelines.orchestration.airflow_env import conf_folder

LOADER = '''"""Dags of {path}, made by dags.factory from airflow's settings; written again by dags.bundle."""

from dags.factory import project_dags

globals().update(project_dags({path!r}))
'''


class ProjectsBundle(BaseDagBundle):
    """Keeps one loader for each YAML file of ``conf_folder()``. Airflow records import errors by file."""

    supports_versioning = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._path = Path(os.environ["AIRFLOW_HOME"]) / "projects"

    @property
    def path(self) -> Path:
        """Folder of the loaders."""
        return self._path

    def initialize(self) -> None:
        """Write the loaders, in whichever process needs them first."""
        self.refresh()
        super().initialize()

    def refresh(self) -> None:
        """Follow the YAML files: new ones get a loader, those gone lose theirs."""
        self._path.mkdir(parents=True, exist_ok=True)
        wanted = {f"{file.stem}.py": LOADER.format(path=str(file)) for file in sorted(conf_folder().glob("*.yaml"))}
        for name, text in wanted.items():
            target = self._path / name
            if not target.exists() or target.read_text() != text:
                temporary = target.with_name(f".{name}.{os.getpid()}")
                temporary.write_text(text)
                temporary.replace(target)
        for file in self._path.glob("*.py"):
            if file.name not in wanted:
                file.unlink(missing_ok=True)

    def get_current_version(self) -> None:
        """Loaders have no versions; runs record the code's commit in the ledger."""
        return None
