"""Choose settings on validation, the test window unseen: the same number of candidates for every family of arms.

The FM's candidates are compared by the FM's own validation window. VMs are compared on the project's FM, of which the
file says whether it is the best candidate.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from benchmarks.chosen import FAMILIES, Choice, Chosen, Family, write_chosen
from benchmarks.experiment_output import Output, experiment_benchmark, number
from benchmarks.experiments import CellSettings, Experiment, SeedSettings, WorldSettings, experiment
from benchmarks.harness import BenchmarkError, Report, at_least
from benchmarks.projects import REPOSITORY
from feature_store.config import Name
from pipelines.config import Arm

PROJECT = "project"
"""The candidate that changes nothing: the project's own settings."""

Candidates = dict[Name, dict[str, Any]]


class ChooseSettings(SeedSettings):
    """``families``: candidates of each family of arms, trained as ``arms`` says; ``fm``: those of the FM.

    A candidate is what it changes of the project. ``out``: the file to write, below the repository.
    """

    world: WorldSettings
    out: str
    arms: dict[Family, Arm]
    families: dict[Family, Candidates] = Field(min_length=1)
    fm: Candidates = Field(default={})


SETTINGS = ChooseSettings


def body(settings: ChooseSettings, report: Report, output: Output) -> None:
    """Train all candidates, print their validation NE and write the file.

    Raises:
        MissingDataError: the data set is not there.
        BenchmarkError: a family has no arm.
    """
    for family in settings.families:
        if family not in settings.arms or FAMILIES[settings.arms[family]] != family:
            raise BenchmarkError(f"arms.{family}: got {settings.arms.get(family)}; allowed: an arm of that family")
    with experiment(settings.world, report) as opened:
        fm = _fm_choice(opened, settings, report) if settings.fm else None
        families = {family: _choice(opened, family, settings, report) for family in settings.families}
    path = Path(REPOSITORY, settings.out)
    write_chosen(path, Chosen(project=settings.world.project.base, seeds=settings.seeds, fm=fm, families=families))
    report.say(f"wrote {path}")
    report.add("seeds", settings.seeds, settings.seeds_target)
    rows = [row for name, choice in _named(fm, families) for row in _rows(name, choice)]
    output.table("choose", "Validation NE", ["of", "candidate", "mean", "by seed", ""], rows)


def best_of(validation_ne: Mapping[str, list[float]]) -> str:
    """The candidate of the lowest mean; of equal ones the first."""
    return min(validation_ne, key=lambda name: fmean(validation_ne[name]))


def _choice(opened: Experiment, family: Family, settings: ChooseSettings, report: Report) -> Choice:
    arm, found = settings.arms[family], {}
    for name, changes in settings.families[family].items():
        cell = CellSettings(arm=arm, changes=changes)
        found[name] = [_mean_ne(opened, cell, seed) for seed in range(settings.seeds)]
        report.add(f"{family}_{name}_validation_ne", fmean(found[name]))
    best = best_of(found)
    return Choice(chosen=best, changes=settings.families[family][best], validation_ne=found)


def _mean_ne(opened: Experiment, cell: CellSettings, seed: int) -> float:
    """Validation NE of one seed, mean over the verticals."""
    return fmean(opened.validation_ne(name, cell, seed) for name in opened.verticals)


def _fm_choice(opened: Experiment, settings: ChooseSettings, report: Report) -> Choice:
    found = {}
    for name, changes in {PROJECT: {}, **settings.fm}.items():
        found[name] = [opened.fm_validation_ne(seed, changes) for seed in range(settings.seeds)]
        report.add(f"fm_{name}_validation_ne", fmean(found[name]))
    best = best_of(found)
    if best != PROJECT:
        report.say(f"fm: {best} is better than the project's own: put its changes into {settings.world.project.base}")
    report.add("fm_of_the_project_is_best", float(best == PROJECT), None if settings.short else at_least(1))
    return Choice(chosen=best, changes=settings.fm.get(best, {}), validation_ne=found)


def _named(fm: Choice | None, families: Mapping[Family, Choice]) -> list[tuple[str, Choice]]:
    return [*([("fm", fm)] if fm else []), *families.items()]


def _rows(family: str, choice: Choice) -> list[list[str]]:
    return [
        [
            family, name, number(fmean(values)), ", ".join(number(value) for value in values),
            "chosen" if name == choice.chosen else "",
        ]
        for name, values in choice.validation_ne.items()
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(experiment_benchmark("choose", SETTINGS, body))
