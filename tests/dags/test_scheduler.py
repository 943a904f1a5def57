"""A real scheduler on a real site: schedules, deadlines, late rows, backfills, approval, clearing. Minutes each.

One site for all: each test stands on what those before it wrote.
"""

from __future__ import annotations

import pytest

from benchmarks.killing import supervisor_of
from pipelines.orchestration.airflow_api import FINISHED
from pipelines.orchestration.follow import follow, start
from pipelines.orchestration.services import down, service_file
from pipelines.plan import part_states, source_targets, space_targets
from pipelines.registry import CHAMPION
from pipelines.upkeep import TABLES
from tests.dags.live_site import DAYS, PAST, SCHEDULED, Live, live, step_process

__all__ = ["live"]

LATE_ROWS = 30
PAST_COMMAND = ("backfill", "--from", PAST[0], "--to", PAST[-1], "--yes")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def fresh(live: Live, parts: list[str]) -> set[str]:
    """States of all tables but the raw histories that no one reads before the first VM window."""
    context = live.context
    targets = [*source_targets(context), *(t for s in context.spaces.active() for t in space_targets(context, s))]
    return {state.state for target in targets for state in part_states(context, target, parts).values()}


def tables(live: Live, parts: list[str]) -> dict[str, list[str]]:
    """Table -> its rows of some partitions, what records their computation apart."""
    store, found = live.context.store, {}
    for table in (table for table in TABLES if store.exists(table)):
        rows = store.arrow(table, store.newest(table), {}, parts)
        kept = [name for name in rows.column_names if name != "computed_at"]
        found[table] = sorted(map(repr, rows.select(kept).to_pylist()))
    return found


def writers(live: Live, table: str, part: str) -> set[str]:
    """Names, in the ledger, of the tasks that wrote a partition of any space."""
    rows = live.context.store.ledger.entries().to_pylist()
    return {row["run_id"] for row in rows if (row["table"], row["part"], row["state"]) == (table, part, "done")}


def commits(live: Live, table: str) -> dict[str, tuple[str, int | None]]:
    """Partition of the one space -> who wrote it last, and the version."""
    (space,) = live.context.spaces.active()
    entries = live.context.store.ledger.coverage(table, {"space_id": space.space_id})
    return {part: (entry.run_id, entry.version_written) for part, entry in entries.items() if entry.done}


def chunks(live: Live, run_id: str) -> dict[int, tuple[str, int]]:
    """Chunk of a backfill -> state and try of its task."""
    tasks = [task for task in live.api.tasks("live_backfill", run_id) if task["task_id"] == "write"]
    return {task["map_index"]: (task["state"], task["try_number"]) for task in tasks}


def written(live: Live, run_id: str) -> set[int]:
    return {chunk for chunk, (state, _) in chunks(live, run_id).items() if state == "success"}


def newest(live: Live, kind: str, than: int = 0) -> str:
    """Run id of the newest run of a Dag, once there are more than ``than``."""
    live.wait(lambda: len(live.api.runs(f"live_{kind}")) > than)
    return str(live.api.runs(f"live_{kind}")[-1]["dag_run_id"])


def test_a_backfill_that_a_person_stops_goes_on_with_what_is_left(live: Live) -> None:
    person = live.begin(*PAST_COMMAND)
    run_id = newest(live, "backfill")
    name = f"live_backfill/{run_id}/write/"
    live.wait(lambda: written(live, run_id) == {0} and step_process(name) is not None)
    planned, kept = live.api.result("live_backfill", run_id, "plan"), commits(live, "fm_outputs")
    assert len(planned) >= 3
    live.stop("backfill", run_id)
    assert person.wait(300) == 1
    assert "the backfill ended as failed; what it wrote stays: run the same command to go on" in live.printed
    live.wait(lambda: step_process(name) is None, 300)

    person = live.begin(*PAST_COMMAND)
    again = newest(live, "backfill", than=1)
    name = f"live_backfill/{again}/write/"
    live.wait(lambda: step_process(name) is not None)
    assert live.api.result("live_backfill", again, "plan") == planned[1:]
    step = step_process(name)
    assert step is not None
    supervisor_of(step).kill()
    assert person.wait(1500) == 0, live.printed
    assert [tries for _, (_, tries) in sorted(chunks(live, again).items())] == [2] + [1] * (len(planned) - 2)
    now = commits(live, "fm_outputs")
    assert {part: now[part] for part in kept} == kept
    assert {now[part][0].rpartition("/")[0] + "/" for part in now if part not in kept} <= {name}
    assert fresh(live, sorted(now)) == {"done"}
    live.loopfm(*PAST_COMMAND)
    assert "nothing is missing or stale" in live.printed
    assert len(live.api.runs("live_backfill")) == 2


def test_a_scheduled_run_beside_a_backfill_of_its_partition(live: Live) -> None:
    part, before = SCHEDULED[0], len(live.api.runs("live_backfill"))
    live.api.wait_for_dag("live_data")
    live.announce(part)
    person = live.begin("backfill", "--from", part, "--to", part, "--yes")
    backfill = newest(live, "backfill", before)
    live.wait(lambda: step_process(f"live_backfill/{backfill}/write/") is not None)
    live.api.unpause("live_data")
    run_id = newest(live, "data")
    live.wait(lambda: live.states("data", run_id).get("wait") == "success")
    assert live.states("backfill", backfill)["write"] == "running"
    assert person.wait(1500) == 0, live.printed
    live.wait(lambda: live.runs("data")[part]["state"] in FINISHED)
    run = live.runs("data")[part]
    assert (run["state"], run["run_type"]) == ("success", "scheduled")
    tasks = live.api.tasks("live_data", run_id) + live.api.tasks("live_backfill", backfill)
    assert {task["try_number"] for task in tasks} == {1}
    both = {f"live_data/{run_id}/space.features/0", f"live_backfill/{backfill}/write/0"}
    assert both <= writers(live, "features", part)
    entry = live.context.store.ledger.coverage("examples", {})[part]
    done = live.api.result("live_data", run_id, "ingest")["written"]
    assert {w["table"]: w["rows"] for w in done}["examples"] == entry.rows > 0
    assert fresh(live, [part]) == {"done"}


def test_a_partition_that_is_not_ready_in_time_calls_its_alarm(live: Live) -> None:
    live.wait(lambda: SCHEDULED[1] in live.runs("data"))
    text = f"live_data: partition {SCHEDULED[1]} is not ready 0:01:00 after it closed"
    live.wait(lambda: {"text": text} in live.received.alarms, 180)
    assert [alarm["text"] for alarm in live.received.alarms if "is not ready" in alarm["text"]] == [text]
    assert live.runs("data")[SCHEDULED[1]]["state"] == "running"


def test_rows_that_come_late_reopen_their_partition_in_the_next_scheduled_run(live: Live) -> None:
    early, part = SCHEDULED
    before = tables(live, [early])
    live.add_late_rows(early, part, LATE_ROWS)
    live.announce(part)
    live.wait(lambda: live.runs("data")[part]["state"] in FINISHED)
    runs = live.runs("data")
    assert {p: (run["state"], run["run_type"]) for p, run in runs.items()} == dict.fromkeys(
        SCHEDULED, ("success", "scheduled")
    )
    after = tables(live, [early])
    for table in ("examples", "fm_inputs", "fm_outputs"):
        assert len(after[table]) - len(before[table]) == LATE_ROWS, table
        assert set(before[table]) <= set(after[table]), table
    run_id = f"live_data/{runs[part]['dag_run_id']}"
    steps = {
        "examples": "ingest", "fm_inputs": "fm_inputs", "fm_outputs": "space.infer/0", "segments": "space.segments/0",
        "features": "space.features/0",
    }  # fmt: skip
    for table, step in steps.items():
        assert f"{run_id}/{step}" in writers(live, table, early), table
    assert fresh(live, SCHEDULED) == {"done"}


def test_airflows_own_backfill_has_whole_days_and_the_same_keys(live: Live) -> None:
    before = tables(live, SCHEDULED)

    def backfilled() -> dict[str, str]:
        runs = [run for run in live.api.runs("live_data") if run["run_type"] == "backfill"]
        return {run["partition_key"]: run["state"] for run in runs}

    live.airflow(
        "backfill", "create", "--dag-id", "live_data", "--from-date", SCHEDULED[0], "--to-date", SCHEDULED[0],
        "--reprocess-behavior", "completed", "--max-active-runs", "1",
    )  # fmt: skip
    live.wait(lambda: backfilled().get(SCHEDULED[0]) in FINISHED)
    # Airflow takes no second backfill of a Dag while it has not yet marked the first as complete.
    live.wait(lambda: all(b["completed_at"] for b in live.api.call("GET", "/backfills?dag_id=live_data")["backfills"]))
    of_the_page = {
        "dag_id": "live_data", "from_date": f"{SCHEDULED[-1]}T00:00:00Z", "to_date": f"{SCHEDULED[-1]}T00:00:00Z",
        "run_backwards": False, "dag_run_conf": {}, "max_active_runs": 1, "reprocess_behavior": "completed",
    }  # fmt: skip
    live.api.call("POST", "/backfills", of_the_page)
    live.wait(lambda: backfilled().get(SCHEDULED[-1]) in FINISHED)
    assert backfilled() == dict.fromkeys(SCHEDULED, "success")
    assert fresh(live, SCHEDULED) == {"done"}
    assert tables(live, SCHEDULED) == before, "what ran beside each other wrote what runs alone write"


def test_a_cleared_task_runs_again_to_the_same_tables(live: Live) -> None:
    before = tables(live, SCHEDULED)
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
    assert tables(live, SCHEDULED) == before


def test_a_held_challenger_waits_for_a_person(live: Live) -> None:
    context = live.context
    assert context.registry.by_alias(context.vm_name("feed"), CHAMPION) is None
    live.api.wait_for_dag("live_vm_feed")
    live.api.unpause("live_vm_feed")
    run_id = live.api.trigger("live_vm_feed", {"part": SCHEDULED[-1]})
    live.wait(lambda: live.states("vm_feed", run_id).get("approve") == "awaiting_input")
    assert context.registry.by_alias(context.vm_name("feed"), CHAMPION) is None
    path = f"/dags/live_vm_feed/dagRuns/{run_id.replace('+', '%2B')}/taskInstances/approve/-1/hitlDetails"
    assert "positives in mature partitions" in live.api.call("GET", path)["body"]
    live.api.call("PATCH", path, {"chosen_options": ["Approve"], "params_input": {}})
    live.wait(lambda: live.api.run("live_vm_feed", run_id)["state"] in FINISHED)
    links = f"/dags/live_vm_feed/dagRuns/{run_id.replace('+', '%2B')}/taskInstances/train_vm/links"
    assert "/#/experiments/" in live.api.call("GET", links)["extra_links"]["MLflow run"]
    states = live.states("vm_feed", run_id)
    assert (states["promote_approved"], states["promote"], states["compare"]) == ("success", "skipped", "skipped")
    assert context.registry.by_alias(context.vm_name("feed"), CHAMPION) is not None


def test_bad_settings_fail_at_once_and_say_why(live: Live) -> None:
    for part, task_id in {DAYS[0]: "wait", DAYS[5]: "train_vm"}.items():
        run_id = start(live.api, "live_vm_shop", {"part": part})
        assert follow(live.api, "live_vm_shop", run_id) == "failed"
        tasks = live.api.tasks("live_vm_shop", run_id)
        assert [(t["task_id"], t["try_number"]) for t in tasks if t["state"] == "failed"] == [(task_id, 1)]
        assert any("choose a later partition" in line for line in live.api.log("live_vm_shop", run_id, task_id)[-20:])


def test_down_ends_exactly_what_up_started(live: Live) -> None:
    services = service_file(live.site).read()
    families = [child for service in services if service.process for child in service.process.children(recursive=True)]
    assert {service.name for service in services} == {"api-server", "scheduler", "dag-processor", "triggerer", "mlflow"}
    down(live.site)
    assert not any(service.process for service in services)
    assert not any(child.is_running() and child.status() != "zombie" for child in families)
    assert live.api.health() == {}
