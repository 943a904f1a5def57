"""A tiny project and a run of it that nobody disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import SETTINGS
from benchmarks.harness import CONF, load_settings
from benchmarks.killing import Runs
from benchmarks.projects import save_project
from pipelines.context import RunContext

RUN = ("run", "--arms", "base", "loopfm")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YAML file of the benchmark's project: a week of 300 rows a day."""
    path = tmp_path_factory.mktemp("faults") / "faults.yaml"
    save_project(RunContext(load_settings(SETTINGS, CONF / "faults.yaml").project.load(), str(path)))
    return path


@pytest.fixture(scope="session")
def quiet(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run that nobody disturbed."""
    runs = Runs(project, tmp_path_factory.mktemp("quiet"))
    runs.complete(*RUN)
    return runs


@pytest.fixture
def runs(project: Path, tmp_path: Path) -> Iterator[Runs]:
    """Runs in an empty home; what they leave is ended."""
    made = Runs(project, tmp_path / "home")
    yield made
    made.clean()
