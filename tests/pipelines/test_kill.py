"""kill -9 at commit boundaries and around every entry of a registry, then a re-run: all as after an undisturbed run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from benchmarks.killing import SETTINGS_OF_RUNS
from feature_store.sources.paths import DATA_ROOT_SETTING
from pipelines.context import RunContext
from pipelines.registry import CHALLENGER, CHAMPION, ROLLBACK
from tests.pipelines import killer, loop_world
from tests.pipelines.conftest import Loop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

REPOSITORY = Path(__file__).parents[2]
STAGES = {
    "ingested": ["quarantine", "labels", "examples", "past_events"],
    "inputs": ["fm_inputs", "partials"],
    "raw": ["segments", "histories"],
    "space": ["fm_outputs", "segments", "histories", "features"],
}
"""What each stage of ``killer.STAGES`` commits to."""
BOUNDARIES = ["before", "committed", "recorded"]
FM_EVENTS = ["version", "alias", "spaces", "finish"]
VM_EVENTS = [
    *(("train-vm", event) for event in ("finish", "version", "alias")),
    ("evaluate", "evaluations"),
    *(("promote", event) for event in ("evaluations", "alias")),
]


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No tracking server of the environment, and the second source's file."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv(DATA_ROOT_SETTING, str(data))
        killer.write_past(data)
        yield


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession, patched: None) -> dict[str, Path]:
    """Stage -> a project as it was before it; ``after``: after all of them. The FM is trained before its own stage."""
    folder = tmp_path_factory.mktemp("kill")
    root = folder / "ingested"
    root.mkdir()
    found = {"ingested": root}
    for stage, following in pairwise([*killer.STAGES, "after"]):
        root = _copy(root, folder / following)
        killer.STAGES[stage](killer.context(root))
        if following == "space":
            shutil.copytree(root, folder / "sources")
            killer.learn_fm(killer.context(root))
        found[following] = root
    return found


@pytest.fixture(scope="module")
def sources(before: dict[str, Path]) -> Path:
    """A project whose tables of all spaces are written, before its FM is trained."""
    return before["space"].with_name("sources")


@pytest.fixture(scope="module")
def tables(before: dict[str, Path]) -> Path:
    """A project with every table and a first champion."""
    killer.crown(killer.context(before["after"]))
    return before["after"]


@pytest.fixture(scope="module")
def learned(tables: Path) -> RunContext:
    """The same after train-vm, evaluate and promote, undisturbed."""
    context = killer.context(_copy(tables, tables.with_name("learned")))
    killer.learn_vm(context)
    return context


def _copy(root: Path, target: Path) -> Path:
    shutil.copytree(root, target)
    return target


def killed(root: Path, step: str, what: str, boundary: str) -> None:
    command = [sys.executable, "-m", "tests.pipelines.killer", str(root), step, what, boundary]
    # A file, not a pipe: the killed driver's JVM holds its end open until it notices.
    log = root.with_suffix(".log")
    with log.open("w") as output:
        # Torch keeps its threads: weights are compared with those of this process.
        spark = {name: value for name, value in SETTINGS_OF_RUNS.items() if name.startswith("LOOPFM_SPARK")}
        environment = {**os.environ, **spark}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output, timeout=600)
    assert done.returncode == -signal.SIGKILL, log.read_text()[-2000:]


def rows(context: RunContext, table: str) -> pa.Table:
    found = context.store.arrow(table, context.store.ledger.head(table), {}, None)
    keys = ["example_id", "vertical", "key", "key_id", "arrival_end", "as_of", "space_id", "part", "reason", "row"]
    # Sums have no one key: all of their columns order them.
    names = found.column_names if table == "partials" else [n for n in keys if n in found.column_names]
    scalars = [name for name in names if not pa.types.is_list(found.schema.field(name).type)]
    return found.sort_by([(name, "ascending") for name in scalars])


def assert_same_rows(context: RunContext, undisturbed: RunContext, tables: list[str]) -> None:
    for table in tables:
        assert rows(context, table).equals(rows(undisturbed, table)), table


def registered(context: RunContext) -> dict[str, Any]:
    """Spaces, runs by state, versions and aliases, figures: all that has no table of its own, but for ids and times."""
    registry = context.registry
    names = [context.fm_name, *map(context.vm_name, context.dataset.heads)]
    models = {name: [registry.by_version(name, version) for version in registry.versions(name)] for name in names}
    runs = registry.client.search_runs([registry.experiment_id])
    aliases = {
        (n, a): m.version for n in names for a in (CHAMPION, CHALLENGER, ROLLBACK) if (m := registry.by_alias(n, a))
    }
    return {
        "spaces": [(s.space_id, s.state, s.model_digest, s.fm_train_cutoff) for s in context.spaces.all()],
        "runs": Counter((run.info.run_name, run.info.status) for run in runs),
        "versions": {name: [(model.version, dict(model.tags)) for model in found] for name, found in models.items()},
        "aliases": aliases,
        "figures": figures(context),
    }


def figures(context: RunContext) -> set[tuple[Any, ...]]:
    """Rows of evaluations; a repeated judgement records the same ones again."""
    if not context.store.exists("evaluations"):
        return set()
    found = context.store.arrow("evaluations", context.store.newest("evaluations"), {}, None)
    kept = found.drop_columns(["run_id", "computed_at"]).to_pylist()
    return {tuple(map(repr, row.values())) for row in kept}


def test_killed_between_data_commit_and_ledger(loop: Loop, tmp_path: Path, patched: None) -> None:
    killed(tmp_path, "ingested", "examples", "committed")
    context = killer.context(tmp_path)
    assert context.store.pin("examples", {}, loop_world.windows(context).parts) is not None
    killer.write_ingested(context)
    assert_same_rows(context, loop.again(), ["quarantine", "labels", "examples"])


@pytest.mark.slow
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("stage", "table"), [(stage, table) for stage, of in STAGES.items() for table in of])
def test_killed_at_every_boundary(
    before: dict[str, Path], tmp_path: Path, stage: str, table: str, boundary: str
) -> None:
    root = _copy(before[stage], tmp_path / "killed")
    killed(root, stage, table, boundary)
    context = killer.context(root)
    killer.STAGES[stage](context)
    stages = list(before)
    assert_same_rows(context, killer.context(before[stages[stages.index(stage) + 1]]), STAGES[stage])


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["before", "after"])
@pytest.mark.parametrize("event", FM_EVENTS)
def test_killed_while_an_fm_is_entered(sources: Path, tables: Path, tmp_path: Path, event: str, boundary: str) -> None:
    root = _copy(sources, tmp_path / "killed")
    killed(root, "train-fm", event, boundary)
    context = killer.context(root)
    killer.learn_fm(context)
    found, wanted = registered(context), registered(killer.context(tables))
    assert found["spaces"] == wanted["spaces"]
    assert found["runs"] == Counter({("fm seed 0", "FINISHED"): 1})
    assert found["versions"][context.fm_name] == wanted["versions"][context.fm_name]
    assert found["aliases"] == {(context.fm_name, CHAMPION): "1"}


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["before", "after"])
@pytest.mark.parametrize(("step", "event"), VM_EVENTS)
def test_killed_while_a_vm_is_entered_judged_or_promoted(
    tables: Path, learned: RunContext, tmp_path: Path, step: str, event: str, boundary: str
) -> None:
    root = _copy(tables, tmp_path / "killed")
    killed(root, step, event, boundary)
    context = killer.context(root)
    killer.learn_vm(context)
    assert registered(context) == registered(learned)
    name = context.vm_name(killer.VERTICAL)
    found = {alias: context.registry.by_alias(name, alias) for alias in (CHAMPION, ROLLBACK)}
    assert {alias: model and model.version for alias, model in found.items()} == {CHAMPION: "2", ROLLBACK: "1"}
