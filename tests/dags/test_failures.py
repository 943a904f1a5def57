"""The last lines of a failed task's log name the partition, the counts and what to do; the ledger knows the failure.

Each case runs the real task with ``dag.test()`` in a process of its own and reads what that printed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.context import RunContext
from pipelines.inspection.coverage import coverage
from tests.pipelines import loop_world

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "docs/examples/shop"
PART = "2026-03-02T06"
COLUMNS = {
    "time": pa.string(), "user": pa.string(), "page_view": pa.string(), "product": pa.string(),
    "category": pa.int64(), "price": pa.float64(), "device": pa.string(), "in_basket": pa.int64(),
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow_database")]


@dataclass(frozen=True)
class Ended:
    """A task that ended: its state, its tries and the lines of its log."""

    state: str
    tries: int
    lines: list[str]

    @property
    def end(self) -> str:
        return "\n".join(self.lines[-20:])


@pytest.fixture
def shop(conf_folder: Path, home: Path, tmp_path: Path) -> Path:
    """The example shop over three Parquet files, one a day."""
    data = tmp_path / "data"
    subprocess.run([sys.executable, SHOP / "make_csv.py", data, "3", "400"], check=True)
    for path in data.glob("*.csv"):
        rows = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=COLUMNS))
        pq.write_table(rows, path.with_suffix(".parquet"))
    return project(conf_folder, {"format": "parquet", "paths": [f"{data}/*.parquet"]})


def project(folder: Path, read: dict[str, Any]) -> Path:
    raw = yaml.safe_load((SHOP / "shop.yaml").read_text())
    raw["dataset"]["source"] = {"read": read}
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def run_task(
    conf: Path, task: str, part: str, folder: Path, meanwhile: Callable[[int, Path], None] | None = None
) -> Ended:
    log, result = folder / f"{task}.log", folder / f"{task}.json"
    command = [sys.executable, "-m", "tests.dags.one_task", str(conf), task, part, str(result)]
    own = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO", "LOOPFM_SPARK_MEMORY": "1g", "COLUMNS": "1000"}
    with log.open("w") as output:
        child = subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stdout=output, stderr=output)
        try:
            if meanwhile is not None:
                meanwhile(child.pid, log)
            child.wait(280)
        finally:
            child.kill()
    lines = log.read_text().splitlines()
    assert result.exists(), "\n".join(lines[-40:])
    return Ended(**json.loads(result.read_text()), lines=lines)


def failed_tables(conf: Path, part: str) -> dict[str, str]:
    """Table -> reason, of those that the coverage grid shows as failed."""
    found = {c.target.step.table: c.states[part] for c in coverage(RunContext.load(conf), [], [part])}
    return {table: state.reason for table, state in found.items() if state.state == "failed"}


def documented() -> list[str]:
    """Patterns of the lines that docs/operating.md shows under "A red task"; three dots stand for anything."""
    (block,) = re.findall(r"```text\n(.*?)```", (ROOT / "docs/operating.md").read_text(), re.DOTALL)
    lines = block.replace("shop_data/", "shop_one/").splitlines()
    return [re.escape(line).replace(re.escape("..."), ".*") for line in lines]


def test_a_file_that_cannot_be_read(shop: Path, tmp_path: Path) -> None:
    before = [sys.executable, "-m", "pipelines.cli", "ingest", str(shop), "--from", "2026-03-02T00"]
    subprocess.run(before, check=True)
    (tmp_path / "data/shop-2026-03-02.parquet").write_bytes(b"no Parquet")
    task = run_task(shop, "ingest", PART, tmp_path)
    assert (task.state, task.tries) == ("failed", 1)
    for text in ("BadDataError", "1 of 3 files cannot be read", "shop-2026-03-02.parquet", f"partitions: {PART}",
                 "counts: examples: 0 of 1 partitions are done", "what to do: correct the source"):  # fmt: skip
        assert text in task.end, task.end
    shown = documented()
    assert len(shown) == 4
    for line in shown:
        assert re.search(line, task.end), (line, task.end)
    assert set(failed_tables(shop, PART)) == {"examples", "labels"}
    assert "1 of 3 files cannot be read" in failed_tables(shop, PART)["examples"]


def test_a_column_that_changed_its_type(shop: Path, tmp_path: Path) -> None:
    path = tmp_path / "data/shop-2026-03-02.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(5, "price", rows["price"].cast(pa.string())), path)
    task = run_task(shop, "check", PART, tmp_path)
    assert (task.state, task.tries) == ("failed", 1)
    for text in ("BadDataError", "column price has another type: expected double, got string, in 1 of 3 files",
                 f"partitions: {PART}", "counts: examples: 0 of 1", "what to do: correct the source"):  # fmt: skip
        assert text in task.end, task.end
    assert set(failed_tables(shop, PART)) == {"examples", "labels"}


def test_a_missing_setting(conf_folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPFM_DATA", raising=False)
    shop = project(conf_folder, {"format": "parquet", "paths": ["${LOOPFM_DATA}/absent-shop/*.parquet"]})
    task = run_task(shop, "check", PART, tmp_path)
    assert (task.state, task.tries) == ("failed", 1)
    for text in ("ContractError", "set LOOPFM_DATA to the folder of the data sets", f"partitions: {PART}",
                 "counts: examples: 0 of 1", "what to do: do what the message says"):  # fmt: skip
        assert text in task.end, task.end
    (alarm,) = [line for line in task.lines if "ALARM" in line]
    assert f"shop_one: check of {PART} failed: loopfm check: ContractError" in alarm
    assert set(failed_tables(shop, PART)) == {"examples", "labels"}


def test_a_killed_jvm_says_so_and_is_tried_again(conf_folder: Path, home: Path, tmp_path: Path) -> None:
    conf = conf_folder / "small.yaml"
    conf.write_text(yaml.safe_dump(loop_world.raw_settings(name="small"), sort_keys=False))

    def kill(pid: int, log: Path) -> None:
        _wait(lambda: "ingest: labels" in log.read_text())
        next(p for p in psutil.Process(pid).children(recursive=True) if p.name() == "java").kill()

    task = run_task(conf, "ingest", "2026-01-02", tmp_path, kill)
    assert (task.state, task.tries) == ("success", 2)
    first = [place for place, line in enumerate(task.lines) if "what to do: " in line][-1]
    end = "\n".join(task.lines[first - 19 : first + 1])
    for text in ("LostProcessError: ingest of 2026-01-02", "signal 9 (SIGKILL)", "partitions: 2026-01-02",
                 "counts: examples: 0 of 1 partitions are done", "starts the task again by itself",
                 "LOOPFM_SPARK_MEMORY"):  # fmt: skip
        assert text in end, end
    assert failed_tables(conf, "2026-01-02") == {}


def _wait(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)
