"""Training and scoring of a VM."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.calibration import logit_shift
from models.config import TrainConfig, VmConfig
from models.distillation import Distiller, make_distiller
from models.errors import ModelConfigError
from models.feed import FeatureFeed
from models.metrics import evaluate
from models.optimizer import make_optimizer
from models.vm import VerticalModel
from models.vm_artifact import VmArtifact
from models.vm_data import VmBatch, VmInputs
from models.vm_score import score_vm
from models.warm_start import copy_weights

Progress = Callable[[str], None]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of the curve."""

    epoch: int
    train_loss: float
    validation_ne: float
    rows: int


@dataclass(frozen=True)
class VmTrainResult:
    """The best epoch's model, its validation metrics, and the curve of all epochs.

    ``stopped``: the validation NE ended the training, so that more epochs allowed would have changed nothing.
    """

    artifact: VmArtifact
    metrics: dict[str, float]
    curve: list[EpochRecord]
    best_epoch: int
    stopped: bool


def train_vm(
    config: VmConfig,
    inputs: VmInputs,
    train: FeatureFeed,
    validation: FeatureFeed,
    *,
    seed: int | None = None,
    warm_start: VmArtifact | None = None,
    progress: Progress | None = None,
) -> VmTrainResult:
    """Train on one window, stop early on the NE of a later one, keep the best epoch.

    Args:
        config: the VM and its training.
        inputs: what it may read.
        train: rows of the training window.
        validation: rows of the validation window.
        seed: of weights and order; the config's by default.
        warm_start: model to start from; its vocabularies are extended and its weights kept.
        progress: called with one line an epoch.

    Raises:
        FeatureMismatchError: ``warm_start`` reads a feature or history that ``config`` does not.
        ModelConfigError: the training window holds no row with a known label, or a feed keeps unknown ones.
    """
    if train.known_at is None or validation.known_at is None:
        raise ModelConfigError("known_at of a feed: got None; training needs the instant at which labels are known")
    seed = config.train.seed if seed is None else seed
    encoder, base_rate = train.fit_encoder(warm_start.encoder if warm_start else None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VerticalModel(config, inputs, encoder)
        model.start_at(base_rate)
        if warm_start:
            copy_weights(warm_start.model, model)
        distiller = make_distiller(config.distillation, config.kd_weight, model.hidden_width)
        artifact = VmArtifact(config, inputs, encoder, model)
        return _TrainingRun(artifact, distiller, train, validation, seed, progress).fit()


class _TrainingRun:
    def __init__(
        self,
        artifact: VmArtifact,
        distiller: Distiller,
        train: FeatureFeed,
        validation: FeatureFeed,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self.artifact, self.train, self.validation = artifact, train, validation
        self.seed, self.progress = seed, progress
        self.settings: TrainConfig = artifact.config.train
        self.device = choose_device(self.settings)
        self.model = artifact.model.to(self.device)
        self.distiller = distiller.to(self.device)
        self.optimizer = make_optimizer(nn.ModuleList([self.model, self.distiller]), self.settings)

    def fit(self) -> VmTrainResult:
        curve: list[EpochRecord] = []
        best: tuple[int, dict[str, float], dict[str, Tensor]] | None = None
        stopped = False
        for epoch in range(self.settings.epochs):
            loss, rows = self._epoch(epoch)
            metrics = evaluate(score_vm(self.artifact, self.validation))
            curve.append(EpochRecord(epoch, loss, metrics["ne"], rows))
            if self.progress:
                self.progress(f"epoch {epoch + 1}: train loss {loss:.4f}, validation NE {metrics['ne']:.4f}")
            if best is None or metrics["ne"] < best[1]["ne"]:
                best = (epoch, metrics, copy.deepcopy(self.model.state_dict()))
            elif epoch - best[0] >= self.settings.patience:
                stopped = True
                break
        if best is None:
            raise ModelConfigError("train.epochs: at least one epoch is needed")
        self.model.load_state_dict(best[2])
        artifact = replace(self.artifact, model=self.model.to("cpu").eval())
        return VmTrainResult(artifact, self._calibrated(artifact, best[1]), curve, best[0], stopped)

    def _calibrated(self, artifact: VmArtifact, metrics: dict[str, float]) -> dict[str, float]:
        """The validation metrics after the model was calibrated, where its settings ask for it."""
        if not artifact.config.calibrate:
            return metrics
        with torch.no_grad():
            artifact.model.bias.add_(logit_shift(score_vm(artifact, self.validation)))
        return evaluate(score_vm(artifact, self.validation))

    def _epoch(self, epoch: int) -> tuple[float, int]:
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self.settings.learning_rate_decay**epoch
        total, rows = torch.zeros((), device=self.device), 0
        shuffle_seed = self.seed * 1_000 + epoch
        for batch in self.train.batches(self.artifact.encoder, self.settings.batch_size, shuffle_seed):
            total += self._step(batch.to(self.device)) * len(batch)
            rows += len(batch)
        if not rows:
            raise ModelConfigError("the training window holds no row whose label is known; move or widen it")
        return float(total) / rows, rows

    def _step(self, batch: VmBatch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            output = self.model.output(batch)
            loss = self.distiller(output, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def choose_device(settings: TrainConfig) -> torch.device:
    """The configured device; ``auto`` takes a GPU where there is one."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)
