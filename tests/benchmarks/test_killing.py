"""Which process of a run is which, and that a wanted kind is waited for; the runs here only sleep."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.killing import DRAWN, SUPERVISOR, TASK, WORKER, Kill, Runs, ended, kill_through, planned_kills, wait_for

SCRIPT = """
import os, subprocess, sys, time
print("[   0.1 s] begun", flush=True)
if names := os.environ["NAMES"].split():
    time.sleep(0.5)
    subprocess.Popen([sys.executable, sys.argv[0], names[0]], env={"NAMES": " ".join(names[1:])})
time.sleep(60)
"""


class Sleepers(Runs):
    """Runs whose supervisor starts a task half a second later, and that a Python worker."""

    script = SCRIPT

    def start(self, *arguments: str, supervised: bool = False) -> psutil.Popen:
        self.count += 1
        own, *names = ["benchmarks.supervised", "pipelines.cli", "pyspark.worker"][0 if supervised else 1 :]
        self.conf.write_text(self.script)
        with self.log.open("w") as output:
            process = psutil.Popen(
                [sys.executable, str(self.conf), own],
                env={"NAMES": " ".join(names)},
                stdout=output,
                start_new_session=True,
            )
        self._seen.add(process)
        return process


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Sleepers]:
    made = Sleepers(tmp_path / "sleeper.py", tmp_path)
    yield made
    made.clean()


def test_each_kind_comes_first_equally_often_and_a_seed_says_all() -> None:
    kills = planned_kills(1, 52, 5.0)
    assert kills == planned_kills(1, 52, 5.0) != planned_kills(2, 52, 5.0)
    slower = planned_kills(1, 52, 10.0)
    assert [(2 * kill.after, kill.kinds) for kill in kills] == [(kill.after, kill.kinds) for kill in slower]
    assert Counter(kill.kinds[0] for kill in kills) == dict.fromkeys(DRAWN, 13)
    assert {frozenset(kill.kinds) for kill in kills} == {frozenset(DRAWN)}
    assert all(0 <= kill.after < 5.0 for kill in kills)


def test_processes_are_told_apart(runs: Sleepers) -> None:
    run = runs.start(supervised=True)
    assert wait_for(lambda: {kind: len(found) for kind, found in runs.victims(run).items()} == dict.fromkeys(
        (SUPERVISOR, TASK, WORKER), 1
    ), 20)  # fmt: skip
    plain = runs.start()
    assert wait_for(lambda: [*runs.victims(plain)][:1] == [TASK], 20)
    assert runs.kill(run, [SUPERVISOR]) == SUPERVISOR
    run.wait(5)
    assert ended(run)
    assert runs.kill(run, [TASK]) == ""


def test_a_kind_that_does_not_live_yet_is_waited_for(runs: Sleepers) -> None:
    kills = [Kill(0.0, (WORKER, TASK)), Kill(0.0, (SUPERVISOR, TASK))]
    done, begun = kill_through(iter([runs]), [], kills, grace=1)
    assert (done, begun) == ([(WORKER, "begun"), (SUPERVISOR, "begun")], [runs])
    assert runs.count == 2, "the run lives on without its worker, and is started again without its supervisor"


def test_a_run_that_comes_to_its_end_leaves_its_home(runs: Sleepers, tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    later = Sleepers(tmp_path / "later.py", tmp_path / "next")
    runs.script = 'print("[   0.1 s] begun", flush=True)'
    done, begun = kill_through(iter([runs, later]), [], [Kill(0.5, (TASK,))], grace=1)
    later.clean()
    assert (done, begun) == ([(TASK, "begun")], [runs, later])
    assert (runs.count, later.count) == (1, 1)


def test_runs_that_always_fail_are_given_up(runs: Sleepers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.killing.STARTS", 2)
    runs.script = 'print("[   0.1 s] begun", flush=True); raise SystemExit(1)'
    with pytest.raises(RuntimeError, match=r"2 runs ended by themselves; the last one:\n.*begun"):
        kill_through(iter([runs]), [], [Kill(0.5, (TASK,))])
    assert runs.count == 2
