"""Benchmarks of search that run in parts: each finished run is one line of a JSON file, and is not run again."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.harness import MissingDataError, Report, benchmark
from feature_store.config import Strict
from pipelines.config import data_root, home

NOT_RUN = math.nan
"""Value of a figure whose runs are not there yet: it counts as short."""

Settings = TypeVar("Settings", bound=Strict)
Record = dict[str, Any]


def mean_of(values: Sequence[float]) -> float:
    """Mean of a figure's runs, ``NOT_RUN`` where there are none."""
    return sum(values) / len(values) if values else NOT_RUN


@dataclass(frozen=True, order=True)
class Key:
    """One run: what is searched, by which method, from which seed."""

    function: str
    method: str
    seed: int


class Runs:
    """Finished runs of one benchmark, on disk.

    Args:
        path: JSON lines; created with its folder at the first result.
        settings: what the results depend on; lines of other settings are kept and ignored.
        seconds: after so long no further run begins.
    """

    def __init__(self, path: Path, settings: Any, seconds: float = math.inf) -> None:
        self.path = path
        self.digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self.deadline = time.monotonic() + seconds
        self.results: dict[Key, Record] = {}
        content = path.read_text() if path.exists() else ""
        # A run killed while it wrote leaves half a line; the next one begins on a line of its own.
        self._broken = bool(content) and not content.endswith("\n")
        for line in content.splitlines(keepends=True):
            if line.endswith("}\n"):
                self._take(json.loads(line))

    def complete(self, keys: Iterable[Key], run: Callable[[Key], Record], report: Report) -> None:
        """Run what is not there yet, in order, until the time is over."""
        for key in keys:
            if key in self.results:
                continue
            if self.over():
                report.say("the time given is over: the figures are those of the runs so far")
                return
            start = time.perf_counter()
            record = run(key)
            self._write({"settings": self.digest, **key.__dict__, "seconds": time.perf_counter() - start, **record})
            report.say(f"{key.function} {key.method} {key.seed}: {time.perf_counter() - start:.1f} s")

    def over(self) -> bool:
        """Whether the time given is over."""
        return time.monotonic() > self.deadline

    def seeds(self, function: str, methods: Sequence[str]) -> list[int]:
        """Seeds that every one of the methods has finished on a function."""
        sets = [{key.seed for key in self.results if (key.function, key.method) == (function, m)} for m in methods]
        return sorted(set.intersection(*sets)) if sets else []

    def get(self, function: str, method: str, seed: int) -> Record:
        """One finished run."""
        return self.results[Key(function, method, seed)]

    def _write(self, record: Record) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write("\n" * self._broken + json.dumps(record) + "\n")
        self._broken = False
        self._take(record)

    def _take(self, record: Record) -> None:
        if record["settings"] == self.digest:
            self.results[Key(record["function"], record["method"], record["seed"])] = record


def resumable(
    name: str,
    settings: type[Settings],
    body: Callable[[Settings, Report, Runs], None],
    depends: Callable[[Settings], Any],
    version: int,
    argv: Sequence[str] | None = None,
    shared_state: str | None = None,
) -> int:
    """``benchmark`` with ``--state FILE`` (default under LOOPFM_HOME) and ``--seconds N``; returns its exit code.

    Args:
        depends: the settings that a single run's result depends on.
        version: of the code that a run's result depends on; raised with it, so that no figure mixes two.
        shared_state: name of the default state of benchmarks that share runs; ``name`` when absent.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", add_help=False)
    parser.add_argument("--state", type=Path, help="finished runs, one a line (default: under LOOPFM_HOME)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no run after so long")
    own, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    path = own.state or Path(home(), "benchmarks", f"{shared_state or name}.jsonl")

    def with_runs(chosen: Settings, report: Report) -> None:
        body(chosen, report, Runs(path, [version, depends(chosen)], own.seconds))

    return benchmark(name, settings, with_runs, rest)


def search_data(folder: str) -> Path:
    """Folder of the public search data under LOOPFM_DATA.

    Raises:
        MissingDataError: it is not there.
    """
    path = Path(data_root(), "search", folder)
    if not path.is_dir():
        raise MissingDataError(f"{path} is missing: set LOOPFM_DATA to the folder that holds search/{folder}")
    return path
