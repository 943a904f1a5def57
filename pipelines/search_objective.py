"""One trial of a VM search: train a VM on pinned rows as a run below the search's, measure NE and FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from models.config import VmConfig
from models.flops import flops_per_example
from models.vm_train import VmTrainResult
from pipelines.config import ProjectConfig
from pipelines.context import RunContext
from pipelines.digest import digest
from pipelines.registry import PARENT_TAG
from pipelines.train_vm import fit, record, run_tags
from pipelines.vm_rows import PinnedRows, feed, vm_inputs
from search.trial import Outcome
from search.vm_space import VmSpace

FLOPS_ROWS = 2_000
NE, FLOPS, SPENT = "search_ne", "search_flops", "search_sample_epochs"


def _quiet(line: str) -> None:
    del line


@dataclass
class TrialTraining:
    """Trains trials; pickles, so that worker processes can have their own.

    Args:
        config: the project.
        origin: its YAML file.
        root: where its tables and runs lie.
        run_id: names this invocation.
        vertical: whose VM.
        space_id: whose features and histories are read.
        versions: Delta versions of the tables.
        windows: (training, validation) partitions.
        seed: of weights and order.
        parent: MLflow run of the search.
    """

    config: ProjectConfig
    origin: str
    root: str
    run_id: str
    vertical: str
    space_id: str
    versions: dict[str, int]
    windows: tuple[list[str], list[str]]
    seed: int
    parent: str

    def __getstate__(self) -> dict[str, Any]:
        """Settings only: sessions and clients are made anew in another process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("context", "vm_space")}

    @cached_property
    def context(self) -> RunContext:
        """This process's context."""
        return RunContext(self.config, self.origin, self.root, _quiet, self.run_id)

    @cached_property
    def vm_space(self) -> VmSpace:
        """Configurations around the vertical's recipe."""
        space = self.context.space(self.space_id)
        return VmSpace(self.hand_set, vm_inputs(self.context, self.vertical, space))

    @property
    def hand_set(self) -> VmConfig:
        """The vertical's recipe."""
        return self.config.vm.arm(self.config.vm.scheduled_arm)

    def __call__(self, config: dict[str, Any], trial_id: int) -> Outcome:
        """Train a configuration of the search."""
        return self.train(self.vm_space.to_vm(config), f"trial {trial_id}")[1]

    def train(self, vm: VmConfig, name: str) -> tuple[str, Outcome]:
        """Train a VM once: the same one under the same name again is looked up. Its run and what it gave."""
        registry = self.context.registry
        idempotency = digest("search-trial", self.parent, name, vm, self.seed)
        finished = registry.finished_run(idempotency)
        if finished is not None:
            return str(finished.info.run_id), self._logged(str(finished.info.run_id))
        pinned = PinnedRows(self.context.space(self.space_id), self.versions)
        recipe = self.config.vm.scheduled_arm
        tags = run_tags(self.context, self.vertical, recipe, self.seed, pinned, self.windows)
        with registry.run(name, idempotency, {**tags, PARENT_TAG: self.parent}) as run_id:
            result = fit(self.context, self.vertical, vm, pinned, self.windows, self.seed, None)
            record(self.context, run_id, vm, result)
            outcome = self._measured(vm, pinned, result)
            registry.log(run_id, {}, {NE: outcome.ne, FLOPS: outcome.flops, SPENT: outcome.spent})
        return run_id, outcome

    def _measured(self, vm: VmConfig, pinned: PinnedRows, result: VmTrainResult) -> Outcome:
        known_at = self.context.dataset.clock.end(self.windows[1][-1])
        rows = feed(self.context, self.vertical, vm, pinned, self.windows[1], known_at)
        batch = next(rows.batches(result.artifact.encoder, FLOPS_ROWS))
        return Outcome(
            ne=result.metrics["ne"],
            flops=flops_per_example(result.artifact.model, batch),
            curve=tuple(epoch.validation_ne for epoch in result.curve),
            spent=float(sum(epoch.rows for epoch in result.curve)),
        )

    def _logged(self, run_id: str) -> Outcome:
        metrics = self.context.registry.run_metrics(run_id)
        curve = self.context.registry.curve(run_id, "epoch_validation_ne")
        return Outcome(metrics[NE], metrics[FLOPS], tuple(curve), metrics[SPENT])
