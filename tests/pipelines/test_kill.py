"""kill -9 at commit boundaries, then a re-run: the tables of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.context import RunContext
from pipelines.train_fm import train_fm
from pipelines.write_range import write_sources, write_space
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

REPOSITORY = Path(__file__).parents[2]
TABLES = ["quarantine", "labels", "examples", "fm_inputs", "segments", "histories", "fm_outputs", "features"]
BOUNDARIES = ["before", "committed", "recorded"]


def killed(root: Path, table: str, boundary: str) -> None:
    command = [sys.executable, "-m", "tests.pipelines.killer", str(root), table, boundary]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    # A file, not a pipe: the killed driver's JVM holds its end open until it notices.
    log = root.with_suffix(".log")
    with log.open("w") as output:
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output, timeout=600)
    assert done.returncode == -signal.SIGKILL, log.read_text()[-2000:]


def finish(context: RunContext) -> None:
    windows = loop_world.windows(context)
    write_sources(context, windows.parts, windows.vm)
    space = train_fm(context, windows.fm_train, windows.fm_validation)
    write_space(context, space, windows.outputs, windows.vm)


def rows(context: RunContext, table: str) -> pa.Table:
    found = context.store.arrow(table, context.store.ledger.head(table), {}, None)
    keys = ["example_id", "vertical", "key", "key_id", "arrival_end", "as_of", "space_id", "part", "reason", "row"]
    scalars = [n for n in keys if n in found.column_names and not pa.types.is_list(found.schema.field(n).type)]
    return found.sort_by([(name, "ascending") for name in scalars])


def assert_like_undisturbed(context: RunContext, loop: Loop, tables: list[str]) -> None:
    for table in tables:
        assert rows(context, table).equals(rows(loop.again(), table)), table


def test_killed_between_data_commit_and_ledger(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    killed(tmp_path, "examples", "committed")
    context = loop_world.context(tmp_path)
    windows = loop_world.windows(context)
    write_sources(context, windows.parts, windows.vm)
    assert_like_undisturbed(context, loop, ["quarantine", "labels", "examples", "fm_inputs"])


@pytest.mark.slow
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("table", TABLES)
def test_killed_at_every_boundary(
    loop: Loop, tmp_path: Path, table: str, boundary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    killed(tmp_path, table, boundary)
    context = loop_world.context(tmp_path)
    finish(context)
    assert_like_undisturbed(context, loop, TABLES)
