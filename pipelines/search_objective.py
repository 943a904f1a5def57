"""One trial of a VM search: train a VM on pinned rows as a run below the search's, measure NE and FLOPs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from models.config import VmConfig
from models.feed import FeatureFeed
from models.flops import UntrainedFlops, flops_per_example
from models.vm_data import VmBatch
from models.vm_encoder import VmEncoder
from models.vm_train import VmTrainResult
from pipelines.config import ProjectConfig
from pipelines.context import RunContext
from pipelines.digest import digest
from pipelines.errors import StepError
from pipelines.registry import PARENT_TAG
from pipelines.train_vm import COMMIT_TAG, VERSION_TAG, feeds, fit, load_trained, record, run_tags
from pipelines.vm_rows import PinnedRows, vm_inputs
from search.trial import Outcome
from search.vm_space import VmSpace

KIND = {"loopfm.kind": "search-trial"}
"""Not the kind of a scheduled training: whoever looks for an arm's VM must not find a trial of a search."""
VM_TAG, CONTENTS_TAG = "loopfm.vm", "loopfm.contents"
"""Tags of a trial's run: digests of the VM's settings, and of what the rows that it read held."""
FLOPS_ROWS = 2_000
NE, FLOPS, SPENT, HORIZON = "search_ne", "search_flops", "search_sample_epochs", "search_horizon"


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
        contents: digest of what they hold in the windows.
        windows: (training, validation) partitions.
        seed: of weights and order.
        parent: MLflow run of the search.
        tracking_uri: where that run is, as ``RunContext`` takes it.
    """

    config: ProjectConfig
    origin: str
    root: str
    run_id: str
    vertical: str
    space_id: str
    versions: dict[str, int]
    contents: str
    windows: tuple[list[str], list[str]]
    seed: int
    parent: str
    tracking_uri: str | None

    def __getstate__(self) -> dict[str, Any]:
        """Settings only: sessions and clients are made anew in another process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("context", "vm_space", "pinned")}

    @cached_property
    def context(self) -> RunContext:
        """This process's context."""
        return RunContext(self.config, self.origin, self.root, _quiet, self.run_id, self.tracking_uri)

    @cached_property
    def vm_space(self) -> VmSpace:
        """Configurations around the vertical's recipe."""
        space = self.context.space(self.space_id)
        return VmSpace(self.hand_set, vm_inputs(self.context, self.vertical, space))

    @cached_property
    def pinned(self) -> PinnedRows:
        """The rows that every trial reads."""
        return PinnedRows(self.context.space(self.space_id), self.versions)

    @property
    def hand_set(self) -> VmConfig:
        """The vertical's recipe."""
        return self.config.vm.arm(self.config.vm.scheduled_arm)

    def __call__(self, config: dict[str, Any], trial_id: int) -> Outcome:
        """Train a configuration of the search."""
        return self.train(self.vm_space.to_vm(config), f"trial {trial_id}")[1]

    def short(self, config: dict[str, Any], trial_id: int, share: float) -> Outcome:
        """Train its first epochs: those of the whole training, since nothing of an epoch depends on how many follow."""
        vm = self.vm_space.to_vm(config)
        epochs = math.ceil(share * vm.train.epochs)
        if epochs == vm.train.epochs:
            return self(config, trial_id)
        begun = vm.model_copy(update={"train": vm.train.model_copy(update={"epochs": epochs})})
        return self.train(begun, f"trial {trial_id}, first {epochs} of {vm.train.epochs} epochs", vm.train.epochs)[1]

    def train(self, vm: VmConfig, name: str, epochs: int | None = None) -> tuple[str, Outcome]:
        """Train a VM once: the same one under the same name again is looked up. Its run and what it gave.

        Args:
            epochs: of the whole training, where ``vm`` is its beginning.
        """
        registry = self.context.registry
        idempotency = digest("search-trial", self.parent, name, vm, self.seed)
        finished = registry.finished_run(idempotency)
        if finished is not None:
            return str(finished.info.run_id), self._logged(str(finished.info.run_id))
        with registry.run(name, idempotency, self._tags(vm) | {PARENT_TAG: self.parent}) as run_id:
            rows = feeds(self.context, self.vertical, vm, self.pinned, self.windows)
            result = fit(self.context, self.vertical, vm, rows, self.seed, None)
            record(self.context, run_id, vm, result)
            horizon = epochs if epochs and not result.stopped and len(result.curve) < epochs else None
            outcome = replace(_measured(result, rows[1]), horizon=horizon)
            logged = {NE: outcome.ne, FLOPS: outcome.flops, SPENT: outcome.spent, HORIZON: float(horizon or 0)}
            registry.log(run_id, {}, logged)
        return run_id, outcome

    def trained(self, vm: VmConfig, run_id: str) -> Outcome:
        """What a run of another search gave that trained the same VM on the same rows with the same seed.

        Raises:
            StepError: it did not; the message says what differs.
        """
        run, wanted = self.context.registry.client.get_run(run_id), self._tags(vm)
        # Commits of code, and of other partitions, are no reason to train again: the contents are the same.
        compared = [name for name in wanted if name != COMMIT_TAG and not name.startswith(VERSION_TAG)]
        differs = [name for name in compared if run.data.tags.get(name) != wanted[name]]
        if differs or run.info.status != "FINISHED":
            raise StepError(
                f"run {run_id} ({run.info.status}) is not this training: it differs in {differs}; "
                "leave hand_set_run out to train the recipe here"
            )
        return self._logged(run_id)

    def untrained_flops(self, run_id: str) -> UntrainedFlops:
        """Counts FLOPs of configurations before their training, on the rows that trials are measured on.

        Args:
            run_id: that trained the recipe, whose features and histories are those of every configuration.
        """
        artifact = load_trained(self.context, run_id)
        validation = feeds(self.context, self.vertical, artifact.config, self.pinned, self.windows)[1]
        return UntrainedFlops(validation.inputs, artifact.encoder, _flops_rows(validation, artifact.encoder))

    def _tags(self, vm: VmConfig) -> dict[str, str]:
        recipe = self.config.vm.scheduled_arm
        tags = run_tags(self.context, self.vertical, recipe, self.seed, self.pinned, self.windows)
        return tags | KIND | {VM_TAG: digest(vm), CONTENTS_TAG: self.contents}

    def _logged(self, run_id: str) -> Outcome:
        metrics = self.context.registry.run_metrics(run_id)
        curve = self.context.registry.curve(run_id, "epoch_validation_ne")
        return Outcome(metrics[NE], metrics[FLOPS], tuple(curve), metrics[SPENT], int(metrics[HORIZON]) or None)


def _measured(result: VmTrainResult, validation: FeatureFeed) -> Outcome:
    """What a training gave; ``validation``: the rows that it was compared on, which the feed still holds."""
    return Outcome(
        ne=result.metrics["ne"],
        flops=flops_per_example(result.artifact.model, _flops_rows(validation, result.artifact.encoder)),
        curve=tuple(epoch.validation_ne for epoch in result.curve),
        spent=float(sum(epoch.rows for epoch in result.curve)),
    )


def _flops_rows(validation: FeatureFeed, encoder: VmEncoder) -> VmBatch:
    """The rows that FLOPs are counted on: the first ones."""
    return next(validation.batches(encoder, FLOPS_ROWS))
