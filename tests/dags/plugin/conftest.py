"""The small project that these tests look at, made once: its ledger, and its models in MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.context import RunContext
from tests.dags.plugin import ledger_world


@dataclass(frozen=True)
class World:
    """A folder with the project's YAML file and the root of its tables."""

    conf: Path
    root: Path

    def context(self) -> RunContext:
        """The project, as a process that starts now opens it."""
        return RunContext.load(self.conf / "small.yaml", root=str(self.root), progress=lambda line: None)


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The project with a ledger; no model was ever registered."""
    return _world(tmp_path_factory.mktemp("ledger"))


@pytest.fixture(scope="package")
def trained_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same with registered models and figures."""
    patch = pytest.MonkeyPatch()
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = _world(tmp_path_factory.mktemp("trained"))
    ledger_world.make_models(made.context())
    patch.undo()
    return made


def _world(folder: Path) -> World:
    made = World(folder / "conf", folder / "home")
    made.conf.mkdir()
    ledger_world.write_conf(made.conf)
    ledger_world.make_ledger(made.context())
    return made
