"""Experiments on VMs: a project's tables written once by the real pipeline, then many small trainings on them.

A workspace lies below LOOPFM_HOME/benchmarks/experiments, one a data set, clock and windows. It stays: the ledger knows
which partitions are written, MLflow which models are trained, and test scores are kept, so that a benchmark that was
stopped goes on where it stopped, and benchmarks on the same data share tables and models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from benchmarks.chosen import read_chosen
from benchmarks.experiment_figures import BASE, CALIBRATED_FM, CLAIM_SEEDS, FM, ArmScores
from benchmarks.experiment_scores import KeptScores, Scored
from benchmarks.harness import BenchmarkError, MissingDataError, Report, Target, at_least
from benchmarks.projects import PROJECT_FILE, REPOSITORY, ProjectSettings, save_project, stop_spark
from feature_store.config import Strict
from feature_store.spaces import SpaceRecord
from models.calibration import shift_of, shifted
from models.metrics import Scores
from pipelines.batch_fm import batch_fm_scores
from pipelines.config import DATA_ROOT_SETTING, Arm, ProjectConfig, data_root, home
from pipelines.context import RunContext
from pipelines.digest import digest, training_code
from pipelines.evaluate import ALL_KNOWN
from pipelines.maturity import require_mature
from pipelines.measure import BATCH_FM_ARM
from pipelines.scoring import fm_scores, labelled_rows, score_parts
from pipelines.train_fm import train_fm
from pipelines.train_vm import TrainedVm, load_trained, train_vm, vm_bytes
from pipelines.windows import RunWindows, run_range, run_windows
from pipelines.world_bounds import bound_scores
from pipelines.write_range import write_sources, write_space


class SeedSettings(Strict):
    """``seeds``: of FM and VMs; ``bootstrap``: resamples for an interval; ``short``: claims nothing, is for tests."""

    seeds: int = Field(ge=1)
    bootstrap: int = Field(default=200, ge=50)
    short: bool = False

    @property
    def seeds_target(self) -> Target | None:
        """How many seeds a claim needs."""
        return None if self.short else at_least(CLAIM_SEEDS)


class CellSettings(Strict):
    """One variant of a VM: an arm, and what it changes of the project.

    ``changes``: as in ProjectSettings, below ``vm``, or below ``fm``, which gives the cell spaces of its own.
    """

    arm: Arm
    changes: dict[str, Any] = Field(default={})


class WorldSettings(Strict):
    """A project to experiment on.

    ``data``: the folder below LOOPFM_DATA that it needs. ``chosen``: the file of benchmarks.choose, below the
    repository, whose settings its cells start from.
    """

    project: ProjectSettings
    data: str | None = None
    chosen: str | None = None

    def cell(self, cell: CellSettings) -> CellSettings:
        """The cell with what was chosen for its arm below its own changes."""
        if self.chosen is None:
            return cell
        changes = read_chosen(Path(REPOSITORY, self.chosen)).changes(cell.arm)
        return cell.model_copy(update={"changes": {**changes, **cell.changes}})

    def require(self) -> None:
        """Raise MissingDataError where the data set is not there."""
        if self.data is not None and not (data_root() / self.data).is_dir():
            raise MissingDataError(f"no data set at {data_root() / self.data}: {DATA_ROOT_SETTING} names its root")


World = TypeVar("World", bound=WorldSettings)


@dataclass
class Experiment:
    """A project's tables and models in a workspace that is kept.

    Args:
        world: the project.
        context: of its workspace.
        report: gets progress.
        windows: of its range.
    """

    world: WorldSettings
    context: RunContext
    report: Report
    windows: RunWindows
    _spaces: dict[str, SpaceRecord] = field(default_factory=dict)

    @property
    def scores(self) -> KeptScores:
        """Test scores of finished VMs."""
        return KeptScores(Path(self.context.root, "scores"))

    @property
    def verticals(self) -> list[str]:
        """All verticals of the project."""
        return self.context.dataset.heads

    def config(self, changes: Mapping[str, Any]) -> ProjectConfig:
        """The project with a cell's changes.

        Raises:
            BenchmarkError: they touch the tables that all cells share.
        """
        changed = self.world.project.load(changes)
        own = self.context.config
        if (changed.dataset, changed.windows, changed.range) != (own.dataset, own.windows, own.range):
            raise BenchmarkError(f"changes {dict(changes)}: a cell changes vm or fm; another data set is another world")
        return changed

    def space(
        self, seed: int, changes: Mapping[str, Any] | None = None, windows: RunWindows | None = None
    ) -> SpaceRecord:
        """The space of an FM of this seed, with all that VMs of it read over the VM's windows."""
        used, config = windows or self.windows, self.config(changes or {})
        name = digest(seed, config.fm, vars(used))
        if name not in self._spaces:
            with self.configured(config) as context:
                write_sources(context, self.windows.parts, used.vm)
                space = train_fm(context, used.fm_train, used.fm_validation, seed)
                write_space(context, space, used.outputs, used.vm)
            self._spaces[name] = space
        return self._spaces[name]

    def vm(
        self, vertical: str, cell: CellSettings, seed: int, space: SpaceRecord, windows: RunWindows | None = None
    ) -> TrainedVm:
        """One trained VM of a cell; ``seed`` is the VM's."""
        used = windows or self.windows
        with self.configured(self.config(cell.changes)) as context:
            return train_vm(
                context, vertical, space, used.vm_train, used.vm_validation, arm=cell.arm, seed=seed, register=False
            )

    def validation_ne(self, vertical: str, cell: CellSettings, seed: int) -> float:
        """NE of a cell's VM on the validation window; the test window is not looked at."""
        vm = self.vm(vertical, cell, seed, self.space(seed, _fm_changes(cell)))
        return self.context.registry.run_metrics(vm.run_id)["validation_ne"]

    def fm_validation_ne(self, seed: int, changes: Mapping[str, Any]) -> float:
        """NE of an FM on its own validation window, mean over its heads."""
        with self.configured(self.config(changes)) as context:
            write_sources(context, self.windows.parts, self.windows.vm)
            space = train_fm(context, self.windows.fm_train, self.windows.fm_validation, seed)
            return context.registry.run_metrics(space.run_id)["validation_ne"]

    def run(
        self,
        vertical: str,
        cell: CellSettings,
        seed: int,
        windows: RunWindows | None = None,
        vm_seed: int | None = None,
    ) -> Scored:
        """Test scores of one cell and seed; what is trained and scored already is found again.

        Args:
            vertical: whose VM.
            cell: its settings.
            seed: of the FM, and of the VM where ``vm_seed`` is absent.
            windows: other ones than the project's.
            vm_seed: of the VM.
        """
        space, used = self.space(seed, _fm_changes(cell), windows), windows or self.windows
        own = seed if vm_seed is None else vm_seed
        config = self.config(cell.changes).vm
        # Not by run: another space's commit moves the versions of tables that a training is found again by.
        weights = config.weights_to_try(cell.arm)
        vm = config.arm(cell.arm)
        name = digest(training_code(vm.own_parts), vertical, vm, weights, own, space.space_id, vars(used))
        kept = self.scores.find(name)
        if kept is None:
            kept = self._score(vertical, self.vm(vertical, cell, own, space, windows), space)
            self.scores.keep(name, kept)
        return kept

    def _score(self, vertical: str, vm: TrainedVm, space: SpaceRecord) -> Scored:
        """Scores of a VM on the mature partitions of the test window, by example id."""
        artifact, parts = load_trained(self.context, vm.run_id), self.test_parts(vertical)
        start = time.perf_counter()
        scores = score_parts(self.context, vertical, artifact, space, parts, ALL_KNOWN)
        rate = len(scores) / (time.perf_counter() - start)
        size = vm_bytes(self.context, vm.run_id)
        validation = self.context.registry.run_metrics(vm.run_id)["validation_ne"]
        return Scored(scores, vm_bytes=size, rows_per_second=rate, validation_ne=validation)

    def fm(self, vertical: str, space: SpaceRecord, like: Scores) -> Scores:
        """The FM's own scores of the rows of ``like``."""
        return fm_scores(self.context, vertical, space, self.test_parts(vertical), like)

    def calibrated_fm(self, vertical: str, space: SpaceRecord, like: Scores) -> Scores:
        """As ``fm``, with the shift of the logit that fits the VM's validation window."""
        columns = ["label", "teacher_logit", "weight", "sampling_rate"]
        rows = labelled_rows(self.context, vertical, space, self.windows.vm_validation, columns)
        label, logit, weight, rate = (rows[name].to_numpy().astype(np.float64) for name in columns)
        return shifted(self.fm(vertical, space, like), shift_of(label, 1 / (1 + np.exp(-logit)), weight / rate))

    def batch_fm(self, vertical: str, likes: Sequence[Scores]) -> dict[str, list[Scores]]:
        """Scores of the rows of ``likes`` (by seed) by FMs on batch features; empty where the FM reads none."""
        spaces = {seed: self.space(seed) for seed in range(len(likes))}
        scores = batch_fm_scores(self.context, vertical, spaces, self.test_parts(vertical), likes)
        return {BATCH_FM_ARM: scores} if scores else {}

    def bounds(self, vertical: str, like: Scores) -> dict[str, list[Scores]]:
        """What the generated world knows of the rows of ``like``; empty on other data."""
        return bound_scores(self.context, vertical, like)

    def test_parts(self, vertical: str) -> list[str]:
        """Mature partitions of the test window."""
        return list(require_mature(self.context, vertical, self.windows.test))

    @contextmanager
    def configured(self, config: ProjectConfig) -> Iterator[RunContext]:
        """The context with other settings of models, over the same tables and Spark session."""
        before, self.context.config = self.context.config, config
        try:
            yield self.context
        finally:
            self.context.config = before


def _fm_changes(cell: CellSettings) -> dict[str, Any]:
    return {path: value for path, value in cell.changes.items() if path.split(".")[0] == "fm"}


@contextmanager
def experiment(world: WorldSettings, report: Report) -> Iterator[Experiment]:
    """Open a world's workspace, made where it is not there; its Spark session ends with the block.

    Raises:
        MissingDataError: the data set is not there.
    """
    world.require()
    config = world.project.load()
    name = f"{config.name}-{digest(config.dataset, config.windows, config.range)[:10]}"
    folder = Path(home(), "benchmarks", "experiments", name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tracking = f"sqlite:///{folder}/mlflow.db"
    context = RunContext(
        config, str(folder / PROJECT_FILE), root=str(folder), progress=report.say, run_id="benchmark",
        tracking_uri=tracking,
    )  # fmt: skip
    save_project(context)
    report.say(f"workspace {folder}")
    try:
        yield Experiment(world, context, report, run_windows(config, *run_range(context)))
    finally:
        stop_spark(context)


def each_world(worlds: Mapping[str, World], report: Report, run: Callable[[str, World], None]) -> None:
    """Run on every world in turn; a data set that is not there is named and left out.

    Raises:
        MissingDataError: none of the data sets is there.
    """
    missing = []
    for name, world in worlds.items():
        try:
            run(name, world)
        except MissingDataError as reason:
            report.say(f"{name}: left out: {reason}")
            missing.append(str(reason))
    if len(missing) == len(worlds):
        raise MissingDataError("; ".join(missing))


def run_cells(
    opened: Experiment, vertical: str, cells: Mapping[str, CellSettings], seeds: Sequence[int]
) -> dict[str, list[Scored]]:
    """Every cell over all seeds, seed by seed, so that a run that was stopped has whole seeds."""
    done: dict[str, list[Scored]] = {name: [] for name in cells}
    for seed in seeds:
        for name, cell in cells.items():
            done[name].append(opened.run(vertical, opened.world.cell(cell), seed))
    return done


def arm_scores(
    opened: Experiment,
    vertical: str,
    scored: Mapping[str, Sequence[Scored]],
    bootstrap: int,
    beside: Mapping[str, Sequence[Scores]] | None = None,
) -> ArmScores:
    """Scores of all cells and of the FM whose space unchanged cells read, then of an FM on batch features, if any.

    ``beside``: further arms after them.
    """
    like = scored[BASE][0].scores
    by_arm: dict[str, Sequence[Scores]] = {cell: [one.scores for one in of] for cell, of in scored.items()}
    spaces = [opened.space(seed) for seed in range(len(scored[BASE]))]
    by_arm[FM] = [opened.fm(vertical, space, like) for space in spaces]
    by_arm[CALIBRATED_FM] = [opened.calibrated_fm(vertical, space, like) for space in spaces]
    by_arm |= opened.batch_fm(vertical, [like] * len(spaces))
    return ArmScores(by_arm | dict(beside or {}), bootstrap)
