"""Where trials run: in this process, or in worker processes that can be stopped when a trial passes its limit."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, runtime_checkable

from search.errors import SearchError
from search.trial import Outcome, Trial, plain

Objective = Callable[[dict[str, Any], int], Outcome]
"""(configuration, id of the trial) -> what it measured. Worker processes get it pickled."""


@runtime_checkable
class ShortObjective(Protocol):
    """An objective that can also stop a trial before its end."""

    def __call__(self, config: dict[str, Any], trial_id: int) -> Outcome:
        """As any objective: the whole training."""
        ...

    def short(self, config: dict[str, Any], trial_id: int, share: float) -> Outcome:
        """The first ``share`` of the same training; its outcome names the ``horizon``."""
        ...


START_LIMIT_S = 300.0
WATCH_S = 1.0


class Runner(Protocol):
    """Evaluates trials; a trial that raises, returns no finite NE or passes its limit comes back as failed."""

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Yield each trial with its result as soon as it has one, in any order."""
        ...


class InProcess:
    """One trial after the other in this process, without a time limit."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """See ``Runner.run``."""
        for trial in trials:
            yield _apply(trial, *_evaluate(self.objective, trial))


class Processes:
    """``workers`` processes, started when first used and kept for later trials until ``close``.

    Args:
        objective: must pickle; each process gets its own copy.
        workers: trials evaluated at once.
        time_limit_s: a trial that takes longer fails, and its process is killed and replaced; None: no limit.

    Raises:
        SearchError: a limit that no trial can keep.
    """

    def __init__(self, objective: Objective, workers: int, time_limit_s: float | None) -> None:
        if time_limit_s is not None and not time_limit_s > 0:
            raise SearchError(f"time_limit_s: got {time_limit_s}; allowed: above 0, or none for no limit")
        self.objective, self.workers, self.time_limit_s = objective, workers, time_limit_s
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, Trial, float]] = {}

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """See ``Runner.run``.

        Raises:
            SearchError: a process does not start.
        """
        waiting = list(trials)
        while waiting or self._busy:
            while waiting and len(self._busy) < self.workers:
                self._start(waiting.pop(0))
            yield from self._finished()

    def close(self) -> None:
        """End all processes."""
        for worker in [*self._idle, *(worker for worker, _, _ in self._busy.values())]:
            worker.kill()
        self._idle, self._busy = [], {}

    def _start(self, trial: Trial) -> None:
        worker = self._living() or _Worker(self.objective)
        worker.connection.send(trial)
        limit = math.inf if self.time_limit_s is None else self.time_limit_s
        self._busy[worker.connection] = (worker, trial, time.monotonic() + limit)

    def _living(self) -> _Worker | None:
        """A process that waits for work; one that died meanwhile is none."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                return worker
            worker.kill()
        return None

    def _finished(self) -> Iterator[Trial]:
        """Trials that ended; waits for one, or for the first limit to pass."""
        first = min(deadline for _, _, deadline in self._busy.values())
        timeout = None if math.isinf(first) else max(0.0, first - time.monotonic())
        for connection in wait(list(self._busy), timeout):
            worker, trial, _ = self._busy.pop(connection)  # type: ignore[call-overload]
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):  # the latter where it dies in the middle of an answer
                yield trial.failed(f"its process died, exit code {worker.kill()}")
            else:
                self._idle.append(worker)
                yield _apply(trial, *answer)
        for connection, (worker, trial, deadline) in list(self._busy.items()):
            if time.monotonic() >= deadline and not connection.poll():
                del self._busy[connection]
                worker.kill()
                yield trial.failed(f"took longer than its limit of {self.time_limit_s:g} s")


@contextmanager
def runner(objective: Objective, k: int, time_limit_s: float | None) -> Iterator[Runner]:
    """In this process where neither a limit nor a second trial at once asks for others."""
    if k == 1 and time_limit_s is None:
        yield InProcess(objective)
        return
    processes = Processes(objective, k, time_limit_s)
    try:
        yield processes
    finally:
        processes.close()


class _Worker:
    def __init__(self, objective: Objective) -> None:
        # A forked child of a process that runs threads (torch, Arrow, MLflow) can deadlock.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(objective, theirs, os.getpid()))
        self.process.start()
        theirs.close()
        try:
            ready = self.connection.poll(START_LIMIT_S) and self.connection.recv() == "ready"
        except EOFError:
            ready = False
        if not ready:
            raise SearchError(f"a trial's process did not start, exit code {self.kill()}; its own output tells why")

    def kill(self) -> int | None:
        """End the process; its exit code."""
        self.process.join(timeout=0.1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()
        return self.process.exitcode


def _serve(objective: Objective, connection: Connection, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    connection.send("ready")
    while True:
        try:
            trial = connection.recv()
        except EOFError:
            return
        connection.send(_evaluate(objective, trial))


def _end_with(parent: int) -> None:
    """End this process once its parent is gone: a hanging trial of a killed search must not stay behind."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


def _evaluate(objective: Objective, trial: Trial) -> tuple[Outcome | None, str | None]:
    try:
        if trial.share < 1 and isinstance(objective, ShortObjective):
            return objective.short(trial.config, trial.id, trial.share), None
        return objective(trial.config, trial.id), None
    except (Exception, SystemExit) as error:
        return None, f"{type(error).__name__}: {error}"


def _apply(trial: Trial, outcome: Outcome | None, error: str | None) -> Trial:
    if error is not None:
        return trial.failed(error)
    if not isinstance(outcome, Outcome):
        return trial.failed(f"returned {outcome!r}, no Outcome")
    try:
        outcome = plain(outcome)
    except (TypeError, ValueError):
        return trial.failed(f"returned what are no numbers: {outcome!r}")
    if not math.isfinite(outcome.ne):
        return trial.failed(f"NE is {outcome.ne}")
    if not all(map(math.isfinite, [outcome.flops, outcome.spent, *outcome.curve])):
        return trial.failed(f"not finite: FLOPs {outcome.flops}, spent {outcome.spent}, curve {list(outcome.curve)}")
    return trial.finished(outcome)
