"""One seeded run with many kills at random instants: does it end in the tables of an undisturbed run?

``loopfm run`` over a tiny generated world, run as a task of Airflow runs a step, is killed (kill -9) again and again at
random instants: the supervisor that watches it, its own process, its Spark JVM or a Python worker of Spark, as drawn;
each time the same command is started at once, beside whatever the killed one left behind. A run that comes to its end
leaves its home, and the next home is begun; the last one runs to its end undisturbed. Figures: ``kills`` and how many
hit each kind of process, ``steps_hit`` (how many different steps they hit), ``homes`` and ``recoveries`` (runs that
were started after a kill), and the rows and figures of all homes that differ from those of a run that nobody disturbed
(``differing_rows``).
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from pydantic import Field

from benchmarks.harness import BenchmarkError, Report, at_least, at_most, benchmark, timed
from benchmarks.killing import DRAWN, Runs, Struck, differing_rows, kill_through, planned_kills
from benchmarks.projects import CACHE, PROJECT_FILE, ProjectSettings, save_project
from feature_store.config import Strict
from pipelines.context import RunContext


class Faults(Strict):
    """Kills come at random instants of an undisturbed run's time, counted from the disturbed run's first progress
    line."""

    project: ProjectSettings
    arms: list[str]
    seed: int
    kills: int = Field(ge=1)
    wanted_kills: int = 50


SETTINGS = Faults


def body(settings: Faults, report: Report) -> None:
    """An undisturbed run, a disturbed one, and the comparison."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-faults-", dir=CACHE, ignore_cleanup_errors=True) as folder:
        conf = Path(folder) / PROJECT_FILE
        save_project(RunContext(settings.project.load(), str(conf)))
        quiet = Runs(conf, Path(folder) / "quiet")
        disturbed = [Runs(conf, Path(folder) / f"disturbed-{number}") for number in range(settings.kills + 1)]
        arguments = ["run", "--arms", *settings.arms]
        try:
            with timed(report, "an undisturbed run"):
                quiet.complete(*arguments)
            kills = planned_kills(settings.seed, settings.kills, quiet.working_seconds)
            with timed(report, f"{len(kills)} kills"):
                done, begun = kill_through(iter(disturbed), arguments, kills)
            with timed(report, "the last run, to its end"):
                begun[-1].complete(*arguments)
        except RuntimeError as error:
            raise BenchmarkError(str(error)) from error
        finally:
            for runs in (quiet, *disturbed):
                runs.clean()
        report.add("homes", len(begun))
        report.add("recoveries", sum(runs.count - 1 for runs in begun))
        _report(settings, report, done, [differing_rows(quiet.context, runs.context) for runs in begun])


def _report(settings: Faults, report: Report, done: list[Struck], found: list[dict[str, int]]) -> None:
    report.add("kills", len(done), at_least(settings.wanted_kills))
    kinds, steps = Counter(struck.kind for struck in done), Counter(struck.step for struck in done)
    for kind in DRAWN:
        report.add(f"kills_of_{kind}", kinds[kind], at_least(1))
    for step, count in steps.items():
        report.say(f"in {step}: {count} kills")
    report.add("steps_hit", len(steps))
    for number, tables in enumerate(found):
        for table, rows in tables.items():
            report.say(f"disturbed-{number} {table}: {rows} rows differ")
    report.add("differing_rows", sum(sum(tables.values()) for tables in found), at_most(0))


if __name__ == "__main__":
    sys.exit(benchmark("faults", SETTINGS, body))
