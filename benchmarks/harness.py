"""What every benchmark shares: its command line, its figures against their targets, and its record of the machine.

``python -m benchmarks.NAME [--conf FILE] [--json FILE]`` prints progress, then one line a figure:
``RESULT <figure> <value> <target> <ok|short>``. A target is the issue's own (``>=0.8``), or ``-``, which is always ok.
Exit code: 0 with every target met, 1 with one missed, 2 where the benchmark's own conditions do not hold, 0 without a
RESULT line where the data is missing (a skip is no evidence).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ValidationError

from feature_store.config import Strict
from pipelines.progress import ConsoleProgress

CONF = Path(__file__).parent / "conf"
PACKAGES = ("torch", "pyspark", "delta-spark", "deltalake", "pyarrow", "numpy", "mlflow")

Settings = TypeVar("Settings", bound=Strict)


class MissingDataError(Exception):
    """The benchmark cannot run here; the message says what is missing and where it is expected."""


class BenchmarkError(Exception):
    """A benchmark's own conditions do not hold: it would not measure what it claims to."""


@dataclass(frozen=True)
class Target:
    """A limit on a figure: ``>=`` or ``<=`` a value."""

    sign: Literal[">=", "<="]
    value: float

    def met(self, value: float) -> bool:
        """Whether ``value`` keeps the limit; a figure that is no number never does."""
        if math.isnan(value):
            return False
        return value >= self.value if self.sign == ">=" else value <= self.value

    def __str__(self) -> str:
        return f"{self.sign}{_number(self.value)}"


def at_least(value: float) -> Target:
    """The figure must be ``value`` or more."""
    return Target(">=", value)


def at_most(value: float) -> Target:
    """The figure must be ``value`` or less."""
    return Target("<=", value)


@dataclass(frozen=True)
class Figure:
    """One measured value; without a target it is shown beside the others and is always ok."""

    name: str
    value: float
    target: Target | None = None

    @property
    def ok(self) -> bool:
        """Whether the target is met."""
        return self.target is None or self.target.met(self.value)

    @property
    def line(self) -> str:
        """The RESULT line."""
        return f"RESULT {self.name} {_number(self.value)} {self.target or '-'} {'ok' if self.ok else 'short'}"


@dataclass
class Report:
    """Figures of one run, in the order they were added, and the settings and machine they belong to."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    say: Callable[[str], None] = field(default_factory=ConsoleProgress)

    def add(self, name: str, value: float, target: Target | None = None) -> float:
        """Record a figure and return its value. Names hold no blanks, so that RESULT lines split into five words."""
        if not name or name.split() != [name]:
            raise BenchmarkError(f"figure {name!r}: a name holds no blanks")
        self.figures.append(Figure(name, float(value), target))
        self.say(f"{name} = {_number(float(value))}")
        return float(value)

    @property
    def ok(self) -> bool:
        """Whether every target is met."""
        return all(figure.ok for figure in self.figures)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data: the benchmark, its settings, the machine, the figures."""
        return {
            "benchmark": self.name,
            "settings": self.settings,
            "machine": machine_facts(),
            "figures": [
                {
                    "name": figure.name,
                    "value": figure.value if math.isfinite(figure.value) else None,
                    "target": str(figure.target or "-"),
                    "ok": figure.ok,
                }
                for figure in self.figures
            ],
        }


def benchmark(
    name: str, settings: type[Settings], body: Callable[[Settings, Report], None], argv: Sequence[str] | None = None
) -> int:
    """Run ``body`` as a command and return its exit code.

    Args:
        name: of the benchmark; its default settings are benchmarks/conf/NAME.yaml.
        settings: typed model of the YAML file.
        body: measures and adds figures to the report; raises MissingDataError where it cannot run.
    """
    arguments = _arguments(name, argv)
    report = Report(name)
    try:
        chosen = load_settings(settings, arguments.conf or CONF / f"{name}.yaml")
        report.settings = chosen.model_dump(mode="json")
        report.say(f"{name}: {json.dumps(machine_facts())}")
        body(chosen, report)
    except MissingDataError as reason:
        print(f"SKIPPED {name}: {reason}. This is no evidence for or against any figure.", file=sys.stderr)
        return 0
    except BenchmarkError as error:
        print(f"FAILED {name}: {error}", file=sys.stderr)
        return 2
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    print("\n".join(figure.line for figure in report.figures), flush=True)
    return 0 if report.ok else 1


def load_settings(settings: type[Settings], path: Path) -> Settings:
    """Settings of a benchmark from its YAML file.

    Raises:
        BenchmarkError: the file is missing or a field of it is wrong.
    """
    try:
        return settings.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, ValidationError) as error:
        raise BenchmarkError(f"{path}: {error}") from error


def machine_facts() -> dict[str, Any]:
    """Cores, memory, processor and the versions of what is measured."""
    return {
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "processor": _processor(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass
class Stopwatch:
    """Seconds of the last timed block."""

    seconds: float = math.nan


@contextmanager
def timed(report: Report, label: str) -> Iterator[Stopwatch]:
    """Time a block and say what runs and how long it took."""
    watch = Stopwatch()
    report.say(f"{label} ...")
    start = time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - start
    report.say(f"{label}: {watch.seconds:.2f} s")


def _arguments(name: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--conf", type=Path, help=f"settings (default: benchmarks/conf/{name}.yaml)")
    parser.add_argument("--json", type=Path, help="write figures, settings and machine there")
    return parser.parse_args(argv)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
