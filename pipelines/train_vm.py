"""Step ``train-vm``: train one VM on closed partitions and log it; a vertical's own recipe is registered."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass

from feature_store.commits import contents
from feature_store.spaces import SpaceRecord
from models.config import VmConfig
from models.feed import FeatureFeed
from models.kd_choice import choose_kd_weight
from models.vm_artifact import VmArtifact, load_vm, save_vm
from models.vm_train import EpochRecord, VmTrainResult
from models.vm_train import train_vm as fit_vm
from pipelines.config import KD_ARMS, Arm
from pipelines.context import RunContext
from pipelines.digest import digest, training_code
from pipelines.errors import StepError
from pipelines.plots import learning_curve
from pipelines.progress import timed
from pipelines.registry import CHALLENGER, CHAMPION, TRAINED_UNTIL
from pipelines.run_plots import log_plots
from pipelines.vm_rows import PinnedRows, feed, vm_inputs, vm_pins

STEP_VERSION = 1
VM_ARTIFACTS = "vm"
VALIDATION, CURVE = "validation_", "epoch_validation_ne"
"""What a run's validation metrics begin with, and the metric that holds its curve."""
COMMIT_TAG, VERSION_TAG = "loopfm.commit", "loopfm.version."
"""Tags of a VM's run: the code's commit, and, ended by a table's name, the version of it that was read."""


@dataclass(frozen=True)
class TrainedVm:
    """A finished training: its run, and its version where it was registered."""

    vertical: str
    arm: Arm
    seed: int
    space_id: str
    run_id: str
    version: str | None


@dataclass(frozen=True)
class VmTraining:
    """A training that is asked for: settings, pinned rows, start, and what a finished run of it is known by."""

    arm: Arm
    config: VmConfig
    pinned: PinnedRows
    start: tuple[str, VmArtifact] | None
    weights: list[float]
    idempotency: str


def vm_training(
    context: RunContext,
    vertical: str,
    space: SpaceRecord,
    windows: tuple[list[str], list[str]],
    *,
    arm: Arm | None = None,
    seed: int = 0,
    warm: bool = False,
) -> VmTraining:
    """What ``train_vm`` would train; ``windows`` are (training, validation) partitions.

    Raises:
        StepError: ``warm`` without a champion.
        MissingInputError: features or histories of a partition are missing.
    """
    arm = arm or context.config.vm.scheduled_arm
    config, weights = context.config.vm.arm(arm), context.config.vm.weights_to_try(arm)
    pins = vm_pins(context, space, windows[0] + windows[1])
    start = _champion(context, vertical) if warm else None
    inputs = vm_inputs(context, vertical, space)
    warm_from = start[0] if start else None
    made_from = (context.store.identity("features"), inputs, windows, contents(pins), warm_from)
    code = training_code(config.own_parts)
    idempotency = digest("train-vm", STEP_VERSION, code, vertical, arm, seed, config, *made_from, *weights)
    return VmTraining(arm, config, PinnedRows(space, pins), start, weights, idempotency)


def train_vm(
    context: RunContext,
    vertical: str,
    space: SpaceRecord,
    train_parts: list[str],
    validation_parts: list[str],
    *,
    arm: Arm | None = None,
    seed: int = 0,
    warm: bool = False,
    register: bool = True,
) -> TrainedVm:
    """Train one arm of a vertical on ``train_parts``, stopping early on ``validation_parts``, forward in time.

    Only labels known when the validation window closes are used. The same training again returns the first one's run.

    Args:
        context: the project.
        vertical: whose VM.
        space: whose features and histories it reads.
        train_parts: closed partitions.
        validation_parts: later ones.
        arm: variant; that of scheduled runs when absent.
        seed: of weights and order.
        warm: start from the champion; its vocabularies grow, a removed feature fails by name.
        register: make a VM of the scheduled arm a version of the vertical's model, alias challenger.

    Raises:
        StepError: ``warm`` without a champion; windows not forward in time.
        MissingInputError: features or histories of a partition are missing.
    """
    if max(train_parts) >= min(validation_parts):
        raise StepError(f"validation must lie after training: got {max(train_parts)} then {min(validation_parts)}")
    windows = (train_parts, validation_parts)
    training = vm_training(context, vertical, space, windows, arm=arm, seed=seed, warm=warm)
    arm, config, pinned = training.arm, training.config, training.pinned
    weights, idempotency = training.weights, training.idempotency
    finished = context.registry.finished_run(idempotency)
    if finished is not None:
        run_id = str(finished.info.run_id)
        context.progress(f"train-vm: {vertical} {arm} already trained, run {run_id}")
    else:
        tags = run_tags(context, vertical, arm, seed, pinned, windows)
        with context.registry.run(f"{vertical} {arm} seed {seed}", idempotency, tags) as run_id:
            with timed(context.progress, f"train-vm: {vertical} {arm} seed {seed}"):
                choice = choose_kd_weight(
                    weights or [config.kd_weight],
                    lambda weight: _with_weight(context, vertical, windows, training, weight, seed),
                )
            record(context, run_id, choice.result.artifact.config, choice.result)
            log_plots(context, [run_id], learning_curve([epoch.validation_ne for epoch in choice.result.curve]))
            tried = {f"validation_ne_kd_{weight:g}": ne for weight, ne in choice.validation_ne.items()}
            context.registry.log(run_id, {}, tried)
    version = None
    if register and arm == context.config.vm.scheduled_arm:
        version = register_challenger(context, vertical, space, run_id, validation_parts)
    return TrainedVm(vertical, arm, seed, space.space_id, run_id, version)


def _with_weight(
    context: RunContext,
    vertical: str,
    windows: tuple[list[str], list[str]],
    training: VmTraining,
    weight: float,
    seed: int,
) -> VmTrainResult:
    """The training with one weight of distillation; weight 0 is found where the arm without has done it."""
    plain = KD_ARMS.get(training.arm)
    if weight == 0 and plain is not None:
        asked = vm_training(
            context, vertical, training.pinned.space, windows, arm=plain, seed=seed, warm=training.start is not None
        )
        finished = context.registry.finished_run(asked.idempotency)
        if finished is not None:
            context.progress(f"train-vm: {vertical} weight 0: arm {plain} has trained it, run {finished.info.run_id}")
            return _trained_before(context, str(finished.info.run_id))
    config = training.config.model_copy(update={"kd_weight": weight})
    rows = feeds(context, vertical, training.config, training.pinned, windows)
    return fit(context, vertical, config, rows, seed, training.start[1] if training.start else None)


def _trained_before(context: RunContext, run_id: str) -> VmTrainResult:
    """What ``record`` keeps of a training."""
    logged = context.registry.run_metrics(run_id)
    metrics = {name.removeprefix(VALIDATION): value for name, value in logged.items() if name.startswith(VALIDATION)}
    curve = [EpochRecord(place, math.nan, ne, 0) for place, ne in enumerate(context.registry.curve(run_id, CURVE))]
    best = min(curve, key=lambda epoch: epoch.validation_ne).epoch
    return VmTrainResult(load_trained(context, run_id), metrics, curve, best, stopped=False)


def load_trained(context: RunContext, run_id: str) -> VmArtifact:
    """The VM that a run trained, from the run's artifacts."""
    local = context.scratch / "vm" / run_id
    if not (local / VM_ARTIFACTS).is_dir():
        context.registry.fetch_run_files(run_id, VM_ARTIFACTS, local)
    return load_vm(local / VM_ARTIFACTS)


def vm_bytes(context: RunContext, run_id: str) -> int:
    """Bytes of the files of a VM that ``load_trained`` has fetched."""
    return sum(file.stat().st_size for file in (context.scratch / "vm" / run_id / VM_ARTIFACTS).iterdir())


def _champion(context: RunContext, vertical: str) -> tuple[str, VmArtifact]:
    model = context.registry.by_alias(context.vm_name(vertical), CHAMPION)
    if model is None:
        raise StepError(f"{vertical}: --warm needs a champion and there is none; train fresh first, without --warm")
    return model.run_id, load_trained(context, model.run_id)


def feeds(
    context: RunContext, vertical: str, config: VmConfig, pinned: PinnedRows, windows: tuple[list[str], list[str]]
) -> tuple[FeatureFeed, FeatureFeed]:
    """Pinned rows of (training, validation) partitions whose labels are known when the latter close."""
    known_at = context.dataset.clock.end(windows[1][-1])
    train, validation = (feed(context, vertical, config, pinned, parts, known_at) for parts in windows)
    return train, validation


def fit(
    context: RunContext,
    vertical: str,
    config: VmConfig,
    rows: tuple[FeatureFeed, FeatureFeed],
    seed: int,
    start: VmArtifact | None,
) -> VmTrainResult:
    """Train one VM on (training, validation) rows."""
    train, validation = rows
    return fit_vm(
        config, train.inputs, train, validation, seed=seed, warm_start=start,
        progress=lambda line: context.progress(f"train-vm: {vertical} {line}"),
    )  # fmt: skip


def run_tags(
    context: RunContext, vertical: str, arm: Arm, seed: int, pinned: PinnedRows, windows: tuple[list[str], list[str]]
) -> dict[str, str]:
    """What a VM's run says of its making: rows, versions, space, settings, code."""
    tags = {
        "loopfm.kind": "vm",
        "loopfm.vertical": vertical,
        "loopfm.arm": arm,
        "loopfm.seed": str(seed),
        "loopfm.space": pinned.space.space_id,
        COMMIT_TAG: context.commit,
        "loopfm.config": digest(context.config),
        "loopfm.train": f"{windows[0][0]}..{windows[0][-1]}",
        "loopfm.validation": f"{windows[1][0]}..{windows[1][-1]}",
    }
    return tags | {f"{VERSION_TAG}{table}": str(version) for table, version in pinned.versions.items()}


def record(context: RunContext, run_id: str, config: VmConfig, result: VmTrainResult) -> None:
    """Log a trained VM, its settings, metrics and curve to its run."""
    folder = context.scratch / "vm" / run_id
    save_vm(result.artifact, folder / VM_ARTIFACTS)
    context.registry.log_files(run_id, folder / VM_ARTIFACTS, VM_ARTIFACTS)
    metrics = {f"{VALIDATION}{name}": value for name, value in result.metrics.items()}
    context.registry.log(run_id, config.model_dump(), metrics)
    context.registry.log_curve(run_id, CURVE, [record.validation_ne for record in result.curve])
    shutil.rmtree(folder)


def register_challenger(
    context: RunContext, vertical: str, space: SpaceRecord, run_id: str, validation: list[str]
) -> str:
    """Make a run's VM a version of the vertical's model, alias challenger unless it is the champion; the version."""
    name = context.vm_name(vertical)
    tags = {"loopfm.space": space.space_id, TRAINED_UNTIL: validation[-1]}
    model = context.registry.register(name, run_id, VM_ARTIFACTS, tags)
    champion = context.registry.by_alias(name, CHAMPION)
    if champion is None or champion.version != model.version:
        context.registry.set_alias(name, CHALLENGER, model.version)
    return model.version
