"""Faults, each followed by recovery to the tables of a run that nobody disturbed. Minutes each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks.killing import JVM, TASK, TRAINER, WORKER, Runs, differing_rows, ended, wait_for
from tests.faults.conftest import RUN

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "docs/examples/shop"
SHOP_DAYS = ("--from", "2026-03-01", "--to", "2026-03-03")
FM = ("train-fm", "--from", "2026-01-01", "--to", "2026-01-03", "--validate-from", "2026-01-03")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def reached(runs: Runs, run: psutil.Process, line: str, seconds: float = 400) -> None:
    """Wait until a run's log holds ``line``."""
    wait_for(lambda: line in runs.log.read_text() or ended(run), seconds)
    assert line in runs.log.read_text(), runs.log.read_text()[-3000:]
    assert not ended(run)


def kill_until_it_ends(runs: Runs, run: psutil.Process, kind: str) -> None:
    """The step before leaves idle Python workers, which nobody misses: kill on until a busy one is hit."""
    assert runs.kill(run, [kind]) == kind
    while not ended(run):
        time.sleep(0.3)
        runs.kill(run, [kind])


def same(left: Runs, right: Runs) -> bool:
    """Whether no row of any table differs."""
    found = differing_rows(left.context, right.context)
    assert set(found.values()) == {0}, found
    return True


@pytest.mark.parametrize(
    ("kind", "line", "error"),
    [
        (TASK, "ingest: examples 2026-01-01 .. 2026-01-08 ...", ""),
        (TASK, "train-fm: 2 + 1 partitions", ""),
        (JVM, "infer: fm_outputs", "LostProcessError: infer of "),
        (WORKER, "infer: fm_outputs", "a Python worker was killed"),
    ],
)
def test_a_killed_process(quiet: Runs, runs: Runs, kind: str, line: str, error: str) -> None:
    run = runs.start(*RUN)
    reached(runs, run, line)
    assert wait_for(lambda: kind in runs.victims(run), 60)
    kill_until_it_ends(runs, run, kind)
    text = runs.log.read_text()
    assert error in text
    assert not error or "what to do: " in text.splitlines()[-1]
    runs.complete(*RUN)
    assert same(quiet, runs)


def test_a_killed_torch_trainer(project: Path, tmp_path: Path) -> None:
    homes = [Runs(project, tmp_path / name) for name in ("quiet", "killed")]
    homes[0].complete("write", "--from", "2026-01-01", "--to", "2026-01-03")
    shutil.copytree(homes[0].home, homes[1].home)
    quiet, killed = homes
    quiet.complete(*FM, "--processes", "2")
    run = killed.start(*FM, "--processes", "2")
    assert wait_for(lambda: TRAINER in killed.victims(run), 200)
    killed.kill(run, [TRAINER])
    assert run.wait(200) == 1
    assert "TrainingProcessError" in killed.log.read_text()
    killed.complete(*FM, "--processes", "2")
    assert killed.context.space().model_digest == quiet.context.space().model_digest


def test_a_retry_beside_the_ghost_of_the_first_try(quiet: Runs, runs: Runs) -> None:
    ghost = runs.start(*RUN)
    reached(runs, ghost, "fm-inputs: fm_inputs")
    family = [*ghost.children(recursive=True), ghost]
    for process in family:
        process.send_signal(signal.SIGSTOP)
    ghost_log = runs.log
    runs.complete(*RUN)
    for process in reversed(family):
        process.send_signal(signal.SIGCONT)
    assert ghost.wait(300) == 1
    assert "SupersededError" in ghost_log.read_text()
    assert same(quiet, runs)


def test_a_full_disk(quiet: Runs, project: Path, tmp_path: Path) -> None:
    """A tmpfs that is too small, then larger, in a mount namespace of its own."""
    probe = subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True)
    if probe.returncode:
        pytest.skip(f"no mount namespaces here: {probe.stderr.decode().strip()}")
    home, kept = tmp_path / "home", tmp_path / "kept"
    home.mkdir()
    script = f"""
        mount -t tmpfs -o size=400k tmpfs {home} || exit 9
        "$@" > {tmp_path}/full.log 2>&1; echo $? > {tmp_path}/full.status
        mount -o remount,size=500m {home} || exit 9
        "$@" && cp -r {home} {kept}
    """
    runs = Runs(project, home)
    command = [sys.executable, "-m", "pipelines.cli", RUN[0], str(project), *RUN[1:]]
    with (tmp_path / "second.log").open("w") as output:
        done = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", script, "sh", *command],
            cwd=ROOT, env=runs.environment(), stdout=output, stderr=output, timeout=900,
        )  # fmt: skip
    assert done.returncode == 0, (tmp_path / "second.log").read_text()[-3000:]
    first = (tmp_path / "full.log").read_text()
    assert (tmp_path / "full.status").read_text().strip() == "1"
    assert "FullDiskError" in first, first[-3000:]
    assert "free space there" in first.splitlines()[-1]
    assert same(quiet, Runs(project, kept))


def test_a_vanished_source(tmp_path: Path) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    subprocess.run([sys.executable, SHOP / "make_csv.py", data, "3", "400"], check=True)
    raw = yaml.safe_load((SHOP / "shop.yaml").read_text())
    raw["dataset"]["source"]["read"]["paths"] = [f"{data}/*.csv"]
    conf = tmp_path / "shop.yaml"
    conf.write_text(yaml.safe_dump(raw))
    quiet, runs = Runs(conf, tmp_path / "quiet"), Runs(conf, tmp_path / "home")
    quiet.complete("write", *SHOP_DAYS)
    runs.complete("write", "--from", "2026-03-01")
    os.rename(data, away)
    assert runs.start("write", *SHOP_DAYS).wait(200) == 1
    lines = runs.log.read_text().splitlines()
    assert any("ContractError" in line and "nothing at" in line for line in lines[-4:]), lines[-10:]
    assert any("partitions: 2026-03-02T00 .. 2026-03-03T18 (8)" in line for line in lines[-4:])
    coverage = runs.context.store.ledger.coverage("examples", {})
    assert {part: entry.state for part, entry in coverage.items() if part < "2026-03-02"} == dict.fromkeys(
        ["2026-03-01T00", "2026-03-01T06", "2026-03-01T12", "2026-03-01T18"], "done"
    )
    assert coverage["2026-03-02T00"].state == "failed"
    os.rename(away, data)
    runs.complete("write", *SHOP_DAYS)
    assert same(quiet, runs)
