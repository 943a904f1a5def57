"""Runs of the command line whose processes are killed: start, pick a victim, kill -9, start again, compare tables."""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.projects import REPOSITORY
from pipelines.config import HOME_SETTING, TRACKING_SETTING
from pipelines.context import RunContext
from pipelines.upkeep import TABLES

SUPERVISOR, TASK, JVM, WORKER, TRAINER = "supervisor", "task", "jvm", "worker", "trainer"
DRAWN = (SUPERVISOR, TASK, JVM, WORKER)
"""Kinds that live in every run; a trainer of its own is there only with ``train-fm --processes``."""
START_SECONDS = 120
WAIT_SECONDS = 60
STARTS = 20
"""How often a run may end before one kill hits it."""
PROGRESS = re.compile(r"\[ *(\d+\.\d) s\] ([\w-]+)")
AUDIT_COLUMNS = {"computed_at", "run_id", "model_version"}
SETTINGS_OF_RUNS = {
    "LOOPFM_SPARK_MASTER": "local[1]",
    "LOOPFM_SPARK_MEMORY": "1g",
    "LOOPFM_SPARK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class Runs:
    """Runs of one project in one home.

    Args:
        conf: its YAML file.
        home: LOOPFM_HOME, where logs lie as well.
    """

    conf: Path
    home: Path
    count: int = 0
    _seen: set[psutil.Process] = field(default_factory=set)

    def start(self, *arguments: str, supervised: bool = False) -> psutil.Popen:
        """Start ``loopfm ARGUMENTS[0] CONF ARGUMENTS[1:]`` in a session of its own.

        Args:
            supervised: as a task of Airflow does, by a process that watches it.
        """
        self.count += 1
        self.home.mkdir(parents=True, exist_ok=True)
        module = "benchmarks.supervised" if supervised else "pipelines.cli"
        command = [sys.executable, "-m", module, arguments[0], str(self.conf), *arguments[1:]]
        # A file, not a pipe: a JVM that outlives its driver holds its end open.
        with self.log.open("w") as output:
            process = psutil.Popen(
                command, cwd=REPOSITORY, env=self.environment(), stdout=output, stderr=output, start_new_session=True
            )
        self._seen.add(process)
        return process

    def environment(self) -> dict[str, str]:
        """Environment of the runs: a small Spark, everything below this home."""
        own = {name: value for name, value in os.environ.items() if name != TRACKING_SETTING}
        return own | SETTINGS_OF_RUNS | {HOME_SETTING: str(self.home)}

    @property
    def log(self) -> Path:
        """What the last run printed."""
        return self.home / f"run-{self.count}.log"

    @property
    def has_progress(self) -> bool:
        """Whether the last run told of a step."""
        return PROGRESS.search(self.log.read_text()) is not None

    @property
    def working_seconds(self) -> float:
        """From the first to the last progress line of the last run."""
        instants = [float(seconds) for seconds, _ in PROGRESS.findall(self.log.read_text())]
        return instants[-1] - instants[0]

    @property
    def last_step(self) -> str:
        """The step that the last run told of last."""
        return str(PROGRESS.findall(self.log.read_text())[-1][1])

    @property
    def context(self) -> RunContext:
        """The project as a later process has it."""
        return RunContext.load(self.conf, root=str(self.home), progress=lambda line: None)

    def victims(self, run: psutil.Process) -> dict[str, list[psutil.Process]]:
        """Kind -> living processes of a run."""
        found: dict[str, list[psutil.Process]] = {}
        for process in (run, *run.children(recursive=True)):
            kind = _kind(process)
            if kind is not None:
                found.setdefault(kind, []).append(process)
                self._seen.add(process)
        return found

    def kill(self, run: psutil.Process, kinds: Sequence[str]) -> str:
        """kill -9 the newest process of the first of ``kinds`` that lives; returns the kind, empty where none does."""
        try:
            found = self.victims(run)
            kind = next((kind for kind in kinds if kind in found), "")
            if kind:
                found[kind][-1].kill()
        except psutil.NoSuchProcess:
            return ""
        return kind

    def complete(self, *arguments: str, seconds: float = 600) -> None:
        """Run to the end.

        Raises:
            RuntimeError: it failed; the message holds the end of what it printed.
        """
        run = self.start(*arguments)
        status = run.wait(seconds)
        if status:
            end = "\n".join(self.log.read_text().splitlines()[-30:])
            raise RuntimeError(f"loopfm {' '.join(arguments)} ended with status {status}:\n{end}")

    def clean(self) -> None:
        """End what is left of all runs."""
        for process in self._seen:
            if process.is_running():
                process.kill()


@dataclass(frozen=True)
class Kill:
    """One planned kill: seconds after the run's first progress line, and the kinds of process as they are wanted.

    The first kind is waited for a while.
    """

    after: float
    kinds: tuple[str, ...]


class Struck(NamedTuple):
    """What a kill hit: the kind of process, and the step that the run told of last."""

    kind: str
    step: str


def planned_kills(seed: int, count: int, longest: float) -> list[Kill]:
    """Kills at random instants, in the same order and at the same shares of ``longest`` (s) for one seed; every kind of
    process comes equally often first.

    Most come early in a run and a fifth after half of it (the cube of an even draw), so that slow steps end in between
    and kills reach all of them.
    """
    chance = random.Random(seed)
    first = [kind for _ in range(0, count, len(DRAWN)) for kind in chance.sample(DRAWN, len(DRAWN))][:count]
    others = [[kind for kind in chance.sample(DRAWN, len(DRAWN)) if kind != wanted] for wanted in first]
    return [Kill(longest * chance.random() ** 3, (kind, *more)) for kind, more in zip(first, others, strict=True)]


def kill_through(
    homes: Iterator[Runs], arguments: Sequence[str], kills: Sequence[Kill], grace: float = 60
) -> tuple[list[Struck], list[Runs]]:
    """Carry the planned kills out while ``arguments`` is run again and again, supervised.

    A run that comes to its end is left as it is, and the next home begun: in the old one nothing is left to disturb.

    Returns:
        What each kill hit, and the homes that were begun; in the last one the work may not be done.

    Raises:
        RuntimeError: run after run ends before it can be hit; holds the end of what the last one printed.
    """
    done, begun = [], [next(homes)]
    run = begun[0].start(*arguments, supervised=True)
    for kill in kills:
        starts = 0
        while not (kind := _hit(begun[-1], run, kill)):
            if (starts := starts + 1) == STARTS:
                end = begun[-1].log.read_text()[-3000:]
                raise RuntimeError(f"{STARTS} runs ended by themselves; the last one:\n{end}")
            run = _again(begun, homes, run, arguments)
        done.append(Struck(kind, begun[-1].last_step))
        _wait_for_end(run, grace if kind != WORKER else 5)
        run = _again(begun, homes, run, arguments)
    if not ended(run):
        run.kill()
        run.wait(30)
    return done, begun


def _hit(runs: Runs, run: psutil.Popen, kill: Kill) -> str:
    """Carry a kill out; the kind of process that it hit, empty where the run ended before."""
    wait_for(partial(_under_way, runs, run), START_SECONDS)
    _wait_for_end(run, kill.after)
    wait_for(partial(_has, runs, run, kill.kinds[0]), WAIT_SECONDS, every=0.5)
    return "" if ended(run) else runs.kill(run, kill.kinds)


def _again(begun: list[Runs], homes: Iterator[Runs], run: psutil.Popen, arguments: Sequence[str]) -> psutil.Popen:
    """The run itself while it lives, else the next one."""
    if not ended(run):
        return run
    if run.wait() == 0:
        begun.append(next(homes))
    return begun[-1].start(*arguments, supervised=True)


def differing_rows(left: RunContext, right: RunContext) -> dict[str, int]:
    """Table -> rows that only one of two projects holds, columns that record who computed and when apart."""
    found = {table: _difference(_rows(left, table), _rows(right, table)) for table in TABLES}
    return found | {"evaluations": _difference(_figures(left), _figures(right))}


def wait_for(condition: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
    """Whether ``condition`` holds within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


def _kind(process: psutil.Process) -> str | None:
    try:
        command = " ".join(process.cmdline())
        if process.name() == "java":
            return JVM
    except psutil.Error:
        return None
    if "pyspark.daemon" in command or "pyspark.worker" in command:
        return WORKER
    if "benchmarks.supervised" in command:
        return SUPERVISOR
    if "pipelines.cli" in command:
        return TASK
    return TRAINER if "models.fm_launch" in command and "torch.distributed" not in command else None


def supervisor_of(step: psutil.Process) -> psutil.Process:
    """Airflow's process that watches the task which runs a step: it heartbeats, and starts the task's own process.

    Raises:
        psutil.NoSuchProcess: one of them has ended.
    """
    task = step.parent()
    supervisor = task.parent() if task is not None else None
    if supervisor is None:
        raise psutil.NoSuchProcess(step.pid)
    return supervisor


def ended(run: psutil.Process) -> bool:
    """Whether a run is over."""
    return not run.is_running() or run.status() == psutil.STATUS_ZOMBIE


def _has(runs: Runs, run: psutil.Process, kind: str) -> bool:
    return ended(run) or kind in runs.victims(run)


def _under_way(runs: Runs, run: psutil.Process) -> bool:
    return runs.has_progress or ended(run)


def _wait_for_end(run: psutil.Process, seconds: float) -> None:
    try:
        run.wait(seconds)
    except psutil.TimeoutExpired:
        return


def _rows(context: RunContext, table: str) -> Counter[str]:
    version = context.store.ledger.head(table)
    if version is None:
        return Counter()
    return _counted(context.store.arrow(table, version, {}, None).to_pylist())


def _figures(context: RunContext) -> Counter[str]:
    """Distinct figures: one that was measured again is the same figure."""
    if not context.store.exists("evaluations"):
        return Counter()
    rows = context.store.arrow("evaluations", context.store.newest("evaluations"), {}, None).to_pylist()
    return Counter(set(_counted(rows)))


def _counted(rows: Sequence[Mapping[str, object]]) -> Counter[str]:
    return Counter(
        repr(sorted((name, value) for name, value in row.items() if name not in AUDIT_COLUMNS)) for row in rows
    )


def _difference(left: Counter[str], right: Counter[str]) -> int:
    return ((left - right) + (right - left)).total()
