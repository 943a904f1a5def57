"""One run of the whole loop that the tests of this package look at."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.config import ARMS
from pipelines.context import RunContext
from pipelines.run import LoopResult, run_loop
from pipelines.run_plan import PlannedAction, plan_run
from tests.pipelines import loop_world

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Loop:
    """A finished run, where it lies, and what its plan said before it."""

    root: Path
    context: RunContext
    result: LoopResult
    planned: list[PlannedAction]

    def again(self, **dataset: object) -> RunContext:
        """A new context of the same project, as a later process has it; ``dataset`` changes its contract."""
        return loop_world.context(self.root, **dataset)


@pytest.fixture(scope="session")
def loop(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Loop:
    """The loop over seven days of the generated world: every arm, one seed."""
    root = tmp_path_factory.mktemp("loop")
    patch = pytest.MonkeyPatch()
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    context = loop_world.context(root)
    windows = loop_world.windows(context)
    planned = plan_run(context, windows, list(ARMS), seeds=1)
    result = run_loop(context, windows, list(ARMS), seeds=1)
    patch.undo()
    return Loop(root, context, result, planned)


@pytest.fixture(scope="module")
def copied(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """A copy of the finished run for each module, so that what its tests add stays out of the others' way."""
    root = tmp_path_factory.mktemp("copied") / "home"
    shutil.copytree(loop.root, root)
    return loop_world.context(root)
