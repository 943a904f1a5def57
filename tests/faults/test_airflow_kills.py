"""kill -9 of Airflow's scheduler and of its API server while a data run is on its way; then the undisturbed tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.killing import Runs, differing_rows
from pipelines.errors import StepError
from pipelines.orchestration.airflow_api import FINISHED
from pipelines.orchestration.services import down, service_file, up
from tests.dags.live_site import DAYS, PAST, SCHEDULED, Live, live

__all__ = ["live"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def kill_while_running(live: Live, part: str, service: str) -> None:
    """kill -9 a service as soon as a task of the partition's data run runs, then down and up."""
    live.wait(lambda: "running" in live.states("data", live.runs("data").get(part, {}).get("dag_run_id", "")).values())
    victim = next(found for found in service_file(live.site).read() if found.name == service).process
    assert victim is not None
    victim.kill()
    victim.wait(20)
    with pytest.raises(StepError, match=f"{service} .* has ended"):
        up(live.site)
    down(live.site)
    live.api = up(live.site)


def test_runs_end_in_the_undisturbed_tables(live: Live, tmp_path: Path) -> None:
    live.loopfm("write", "--from", PAST[0], "--to", PAST[-1])
    for part in SCHEDULED:
        live.announce(part)
    live.api.wait_for_dag("live_data")
    live.api.unpause("live_data")
    live.wait(lambda: SCHEDULED[0] in live.runs("data"))
    kill_while_running(live, SCHEDULED[0], "scheduler")
    live.wait(lambda: live.runs("data")[SCHEDULED[0]]["state"] in FINISHED)
    live.wait(lambda: SCHEDULED[1] in live.runs("data"))
    kill_while_running(live, SCHEDULED[1], "api-server")
    live.wait(lambda: live.runs("data")[SCHEDULED[1]]["state"] in FINISHED)
    assert {live.runs("data")[part]["state"] for part in SCHEDULED} == {"success"}
    quiet = Runs(live.conf, tmp_path)
    quiet.complete("write", "--from", PAST[0], "--to", PAST[-1])
    quiet.complete("train-fm", "--from", DAYS[0], "--to", DAYS[2], "--validate-from", DAYS[2])
    quiet.complete("write", "--from", PAST[0], "--to", PAST[-1])
    quiet.complete("write", "--from", SCHEDULED[0], "--to", SCHEDULED[-1])
    found = differing_rows(quiet.context, live.context)
    assert set(found.values()) == {0}, found
