"""A running Airflow over one project whose newest two closed days are left to its scheduler."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from feature_store.clocks import DAY_MS, HOUR_MS, PartitionClock
from feature_store.world.rows import WorldGrid
from feature_store.world.source import world_batches
from pipelines.config import parse_config
from pipelines.context import RunContext
from pipelines.orchestration.airflow_api import AirflowApi
from pipelines.orchestration.airflow_env import Site
from pipelines.orchestration.services import down, up
from tests.dags.receiver import Received, receiving
from tests.pipelines import loop_world

ROOT = Path(__file__).parents[2]
CLOCK = PartitionClock(DAY_MS)
TODAY = CLOCK.part_of(int(datetime.now(UTC).timestamp() * 1000))
DAYS = CLOCK.between(CLOCK.next(TODAY, -9), CLOCK.next(TODAY, -1))
PAST, SCHEDULED = DAYS[:7], DAYS[7:]
SMALL = {
    "LOOPFM_SPARK_MEMORY": "1g",
    "LOOPFM_SPARK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1",
    # Minutes by default, in which a test would wait for Airflow to see that a task's process is gone.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",
}


@dataclass
class Live:
    """A running site with one project.

    ``received``: alarms that were posted. The source's file of each day is there; the marker of a scheduled one is not.
    """

    site: Site
    api: AirflowApi
    conf: Path
    received: Received
    _begun: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def context(self) -> RunContext:
        return RunContext.load(self.conf, root=str(self.site.home), progress=lambda line: None)

    def loopfm(self, *arguments: str) -> None:
        assert self.begin(*arguments).wait() == 0, self.printed

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command beside the test."""
        command = [sys.executable, "-m", "pipelines.cli", arguments[0], str(self.conf), *arguments[1:]]
        with self._log.open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=self.site.environment(), stdout=log, stderr=log)
        self._begun.append(process)
        return process

    @property
    def printed(self) -> str:
        """What the last command printed."""
        return self._log.read_text()

    @property
    def _log(self) -> Path:
        return self.site.home / "command.log"

    def airflow(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "airflow", *arguments], env=self.site.environment(), check=True)

    def runs(self, kind: str) -> dict[str, dict[str, Any]]:
        """Partition key -> newest run."""
        return {run["partition_key"]: run for run in self.api.runs(f"live_{kind}")}

    def wait(self, condition: Callable[[], bool], seconds: float = 1500) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(1)

    def states(self, kind: str, run_id: str) -> dict[str, str]:
        return {task["task_id"]: task["state"] for task in self.api.tasks(f"live_{kind}", run_id)}

    def stop(self, kind: str, run_id: str) -> None:
        """End a run as a person does in the UI, by marking it as failed."""
        self.api.call("PATCH", f"/dags/live_{kind}/dagRuns/{quote(run_id, safe='')}", {"state": "failed"})

    def announce(self, part: str) -> None:
        """The source says that it holds all of a partition."""
        (self.site.home / "ready" / part).touch()

    def add_late_rows(self, part: str, arrival: str, count: int) -> None:
        """A file with rows of ``part`` that arrived in ``arrival``."""
        rows = pq.read_table(self._source / f"{part}.parquet")
        good = rows.filter(
            pc.and_(pc.equal(rows["surface"], 0), pc.is_valid(pc.add(rows["user_id"], rows["event_ms"])))
        )
        late = good.filter(pc.is_in(good["click"], pa.array([0, 1], pa.int32()))).slice(0, count)
        arrived = pa.array([CLOCK.start(arrival) + HOUR_MS] * count)
        late = late.set_column(late.column_names.index("event_ms"), "event_ms", pc.add(late["event_ms"], 1))
        late = late.set_column(late.column_names.index("arrived_ms"), "arrived_ms", arrived)
        pq.write_table(late, self._source / f"{part}-late.parquet")

    def write_source(self, world: dict[str, Any]) -> None:
        """One file a day."""
        self._source.mkdir()
        config = parse_config(loop_world.raw_settings(source={"world": world}), "world.yaml").dataset.source.world
        assert config is not None
        grid = WorldGrid.of(config, CLOCK)
        for day in DAYS:
            rows = pa.Table.from_batches(world_batches(config, CLOCK, grid.cells(CLOCK.start(day), CLOCK.end(day))))
            pq.write_table(rows.drop_columns(["source_file"]), self._source / f"{day}.parquet")

    @property
    def _source(self) -> Path:
        return self.site.home / "source"

    def end(self) -> None:
        """End the commands that still run, and Airflow."""
        for process in self._begun:
            process.kill()
            process.wait()
        down(self.site)


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def step_process(run_id: str) -> psutil.Process | None:
    """The process of a step that a task of DAG/RUN/TASK, mapped or not, runs now."""
    for process in psutil.process_iter():
        try:
            if "pipelines.cli" in process.cmdline() and process.environ().get("LOOPFM_RUN_ID", "").startswith(run_id):
                return process
        except psutil.Error:
            continue
    return None


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Sources of the past days are written and the FM is trained; its space is empty and every Dag is off."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("AIRFLOW") or name == "MLFLOW_TRACKING_URI"]:
        patch.delenv(name)
    home = tmp_path_factory.mktemp("site")
    for folder in ("conf", "ready"):
        (home / folder).mkdir()
    for name, value in SMALL.items() | {("LOOPFM_CONF", str(home / "conf")), ("LOOPFM_HOME", str(home))}:
        patch.setenv(name, value)
    conf = home / "conf" / "live.yaml"
    conf.write_text(yaml.safe_dump(_settings(home)))
    site = Site(home, *free_ports())
    with receiving() as received:
        patch.setenv("LOOPFM_ALARM_URL", received.url)
        made = Live(site, AirflowApi("", "", ""), conf, received)
        made.write_source(loop_world.WORLD | {"start": DAYS[0], "days": len(DAYS)})
        try:
            made.loopfm("write", "--from", PAST[0], "--to", PAST[-1])
            made.loopfm("train-fm", "--from", DAYS[0], "--to", DAYS[2], "--validate-from", DAYS[2])
            made.api = up(site)
            yield made
        finally:
            made.end()
            patch.undo()


def _settings(home: Path) -> dict[str, Any]:
    raw = loop_world.raw_settings(name="live")
    raw["dataset"]["source"] = {"read": {"format": "parquet", "paths": [str(home / "source")]}}
    raw["dataset"]["lag"] = "1m"  # so that a day is due by now, whenever the test runs
    raw["gate"]["min_positives"] = 10**6  # every challenger is held: a person decides
    raw["schedule"] = {
        "first": SCHEDULED[0],
        "last": SCHEDULED[-1],
        "catchup": True,
        "ready": str(home / "ready" / "{part}"),
        "backfill_rows": loop_world.WORLD["rows_per_day"],  # a chunk a day
    }
    return raw
