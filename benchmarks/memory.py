"""Peak memory of a process tree: the sum of proportional set sizes (PSS), sampled while it runs."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


def tree_pss(pid: int) -> int:
    """Bytes of PSS of a process and all its descendants; those that end meanwhile count nothing."""
    try:
        root = psutil.Process(pid)
        members = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_pss(process) for process in members)


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0


class PeakMemory:
    """Samples the PSS of a process tree in a thread; ``peak_bytes`` is the largest seen.

    Args:
        pid: root of the tree; this process when absent.
        interval: seconds between samples.
    """

    def __init__(self, pid: int | None = None, interval: float = 0.5) -> None:
        self.peak_bytes = 0
        self._pid = os.getpid() if pid is None else pid
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, tree_pss(self._pid))
            if self._stop.wait(self._interval):
                return


@dataclass(frozen=True)
class MeasuredCommand:
    """What one command cost."""

    returncode: int
    seconds: float
    peak_bytes: int


def measured_command(command: Sequence[str], env: dict[str, str], log: Path) -> MeasuredCommand:
    """Run a command to its end with its output in ``log``; its wall time and the peak PSS of its process tree."""
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
        with PeakMemory(process.pid) as memory:
            returncode = process.wait()
    return MeasuredCommand(returncode, time.perf_counter() - start, memory.peak_bytes)
