"""A real scheduler on a real site: schedules, backfills, approval, clearing. Minutes each, one site for all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_store.clocks import DAY_MS, PartitionClock
from pipelines.context import RunContext
from pipelines.orchestration.airflow_api import FINISHED, AirflowApi
from pipelines.orchestration.airflow_env import Site
from pipelines.orchestration.follow import follow, start
from pipelines.orchestration.services import down, service_file, up
from pipelines.plan import part_states, source_targets, space_targets
from pipelines.registry import CHAMPION
from tests.pipelines import loop_world

ROOT = Path(__file__).parents[2]
CLOCK = PartitionClock(DAY_MS)
TODAY = CLOCK.part_of(int(datetime.now(UTC).timestamp() * 1000))
DAYS = CLOCK.between(CLOCK.next(TODAY, -8), TODAY)
PAST, SCHEDULED = DAYS[:6], DAYS[6:8]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@dataclass
class Live:
    """A running site with one project whose two newest closed days are left to the scheduler."""

    site: Site
    api: AirflowApi
    conf: Path

    @property
    def context(self) -> RunContext:
        return RunContext.load(self.conf, root=str(self.site.home), progress=lambda line: None)

    def loopfm(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pipelines.cli", arguments[0], str(self.conf), *arguments[1:]]
        subprocess.run(command, cwd=ROOT, env=self.site.environment(), check=True)

    def airflow(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "airflow", *arguments], env=self.site.environment(), check=True)

    def runs(self, kind: str) -> dict[str, dict[str, Any]]:
        """Partition key -> newest run."""
        return {run["partition_key"]: run for run in self.api.runs(f"live_{kind}")}

    def wait(self, condition: Callable[[], bool], seconds: float = 1500) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(2)

    def states(self, kind: str, run_id: str) -> dict[str, str]:
        return {task["task_id"]: task["state"] for task in self.api.tasks(f"live_{kind}", run_id)}


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("AIRFLOW") or name == "MLFLOW_TRACKING_URI"]:
        patch.delenv(name)
    home = tmp_path_factory.mktemp("site")
    (home / "conf").mkdir()
    patch.setenv("LOOPFM_CONF", str(home / "conf"))
    patch.setenv("LOOPFM_HOME", str(home))
    raw = loop_world.raw_settings(name="live")
    raw["dataset"]["source"] = {"world": loop_world.WORLD | {"start": DAYS[0], "days": len(DAYS)}}
    raw["gate"]["min_positives"] = 10**6  # every challenger is held: a person decides
    raw["schedule"] = {"first": SCHEDULED[0], "last": SCHEDULED[-1], "catchup": True}
    conf = home / "conf" / "live.yaml"
    conf.write_text(yaml.safe_dump(raw))
    site = Site(home, *free_ports())
    made = Live(site, AirflowApi("", "", ""), conf)
    made.loopfm("write", "--from", PAST[0], "--to", PAST[-1])
    made.loopfm("train-fm", "--from", DAYS[0], "--to", DAYS[2], "--validate-from", DAYS[2])
    made.loopfm("write", "--from", PAST[0], "--to", PAST[-1])
    made.api = up(site)
    try:
        yield made
    finally:
        down(site)
        patch.undo()


def fresh(live: Live, parts: list[str]) -> set[str]:
    """States of all tables but the raw histories that no one reads before the first VM window."""
    context = live.context
    targets = [*source_targets(context), *(t for s in context.spaces.active() for t in space_targets(context, s))]
    return {state.state for target in targets for state in part_states(context, target, parts).values()}


def rows(live: Live, table: str, parts: list[str]) -> list[dict[str, Any]]:
    store = live.context.store
    found = store.arrow(table, store.newest(table), {}, parts)
    return sorted(
        found.drop_columns(["computed_at"] if "computed_at" in found.column_names else []).to_pylist(), key=str
    )


def test_the_scheduler_makes_each_closed_partition_once(live: Live) -> None:
    live.api.wait_for_dag("live_data")
    live.api.unpause("live_data")
    live.wait(lambda: [live.runs("data").get(p, {}).get("state") in FINISHED for p in SCHEDULED] == [True, True])
    runs = live.runs("data")
    assert {part: runs[part]["state"] for part in runs} == dict.fromkeys(SCHEDULED, "success")
    assert {run["run_type"] for run in runs.values()} == {"scheduled"}
    entry = live.context.store.ledger.coverage("examples", {})[SCHEDULED[0]]
    assert entry.run_id == f"live_data/{runs[SCHEDULED[0]]['dag_run_id']}/ingest"
    written = live.api.result("live_data", runs[SCHEDULED[0]]["dag_run_id"], "ingest")["written"]
    assert {w["table"]: w["rows"] for w in written}["examples"] == entry.rows > 0
    assert fresh(live, SCHEDULED) == {"done"}


def test_airflows_own_backfill_has_whole_days_and_the_same_keys(live: Live) -> None:
    before = rows(live, "features", SCHEDULED)
    live.airflow(
        "backfill", "create", "--dag-id", "live_data", "--from-date", SCHEDULED[0], "--to-date", SCHEDULED[-1],
        "--reprocess-behavior", "completed", "--max-active-runs", "1",
    )  # fmt: skip

    def backfilled() -> dict[str, str]:
        runs = [run for run in live.api.runs("live_data") if run["run_type"] == "backfill"]
        return {run["partition_key"]: run["state"] for run in runs}

    live.wait(lambda: len(backfilled()) == 2 and set(backfilled().values()) <= set(FINISHED))
    assert backfilled() == dict.fromkeys(SCHEDULED, "success")
    assert fresh(live, SCHEDULED) == {"done"}
    assert rows(live, "features", SCHEDULED) == before


def test_a_cleared_task_runs_again_to_the_same_tables(live: Live) -> None:
    before = rows(live, "fm_outputs", SCHEDULED)
    run_id = live.runs("data")[SCHEDULED[-1]]["dag_run_id"]
    body = {
        "dry_run": False, "dag_run_id": run_id, "task_ids": ["fm_inputs"], "only_failed": False,
        "include_downstream": True, "reset_dag_runs": True,
    }  # fmt: skip
    live.api.call("POST", "/dags/live_data/clearTaskInstances", body)
    live.wait(lambda: live.api.run("live_data", run_id)["state"] not in FINISHED, 60)
    live.wait(lambda: live.api.run("live_data", run_id)["state"] in FINISHED)
    assert live.api.run("live_data", run_id)["state"] == "success"
    assert fresh(live, SCHEDULED) == {"done"}
    assert rows(live, "fm_outputs", SCHEDULED) == before


def test_loopfm_backfill_writes_what_is_missing_and_then_nothing(live: Live) -> None:
    assert "missing" in fresh(live, [TODAY])
    live.loopfm("backfill", "--from", PAST[0], "--to", TODAY, "--yes")
    assert fresh(live, [TODAY]) == {"done"}
    count = len(live.api.runs("live_backfill"))
    live.loopfm("backfill", "--from", PAST[0], "--to", TODAY, "--yes")
    assert len(live.api.runs("live_backfill")) == count


def test_a_held_challenger_waits_for_a_person(live: Live) -> None:
    context = live.context
    assert context.registry.by_alias(context.vm_name("feed"), CHAMPION) is None
    live.api.wait_for_dag("live_vm_feed")
    live.api.unpause("live_vm_feed")
    run_id = live.api.trigger("live_vm_feed", {"part": TODAY})
    live.wait(lambda: live.states("vm_feed", run_id).get("approve") == "awaiting_input")
    assert context.registry.by_alias(context.vm_name("feed"), CHAMPION) is None
    path = f"/dags/live_vm_feed/dagRuns/{run_id.replace('+', '%2B')}/taskInstances/approve/-1/hitlDetails"
    assert "positives in mature partitions" in live.api.call("GET", path)["body"]
    live.api.call("PATCH", path, {"chosen_options": ["Approve"], "params_input": {}})
    live.wait(lambda: live.api.run("live_vm_feed", run_id)["state"] in FINISHED)
    states = live.states("vm_feed", run_id)
    assert (states["promote_approved"], states["promote"], states["compare"]) == ("success", "skipped", "skipped")
    assert context.registry.by_alias(context.vm_name("feed"), CHAMPION) is not None


def test_bad_settings_fail_at_once_and_say_why(live: Live) -> None:
    run_id = start(live.api, "live_vm_shop", {"part": DAYS[0]})
    assert follow(live.api, "live_vm_shop", run_id) == "failed"
    tasks = {task["task_id"]: task for task in live.api.tasks("live_vm_shop", run_id)}
    failed = next(task for task in tasks.values() if task["state"] == "failed")
    assert failed["try_number"] == 1
    assert any("loopfm backfill" in line for line in live.api.log("live_vm_shop", run_id, failed["task_id"])[-20:])


def test_down_ends_exactly_what_up_started(live: Live) -> None:
    services = service_file(live.site).read()
    families = [child for service in services if service.process for child in service.process.children(recursive=True)]
    assert {service.name for service in services} == {"api-server", "scheduler", "dag-processor", "triggerer", "mlflow"}
    down(live.site)
    assert not any(service.process for service in services)
    assert not any(child.is_running() and child.status() != "zombie" for child in families)
    assert live.api.health() == {}
