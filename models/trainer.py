"""The training loop that every model uses: early stopping, mixed precision, several processes, resumable epochs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.checkpoint import load_artifact, save_artifact
from models.config import TrainConfig
from models.distributed import Processes, sum_gradients, sum_over_processes
from models.errors import ArtifactError
from models.optimizer import make_optimizer

Batch = TypeVar("Batch")
Terms = dict[str, tuple[Tensor, Tensor]]

CHECKPOINT_KIND = "training"


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave: mean training loss of each term, validation NE, wall time."""

    epoch: int
    losses: dict[str, float]
    validation_ne: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Task(Generic[Batch]):
    """What is trained on what.

    ``batches(epoch)`` yields this process's share of every global batch, the same ones whenever it is called.
    ``terms(batch)`` gives each loss term as (sum over the batch's rows, sum of their weights): the loss is the total of
    sum / weight over the rows of *all* processes. ``validate()`` returns the NE that early stopping watches.
    """

    model: nn.Module
    batches: Callable[[int], Iterable[Batch]]
    terms: Callable[[Batch], Terms]
    validate: Callable[[], float]


class Trainer(Generic[Batch]):
    """Trains a task to the epoch of the best validation NE.

    Args:
        task: model, batches, loss terms and validation.
        config: optimiser, epochs, precision.
        checkpoint: file written after each epoch; ``fit`` goes on from it where it exists.
        processes: this process's place among those that train together.
        progress: called by the first process after each epoch.
    """

    def __init__(
        self,
        task: Task[Batch],
        config: TrainConfig,
        checkpoint: Path | None = None,
        processes: Processes = Processes(),  # noqa: B008 (frozen)
        progress: Callable[[EpochRecord], None] | None = None,
    ) -> None:
        self.task, self.config, self.processes = task, config, processes
        self.checkpoint = checkpoint
        self.progress = progress
        self.history: list[EpochRecord] = []
        self._best = _copied(task.model)
        self._optimizer = make_optimizer(task.model, config)

    def fit(self) -> list[EpochRecord]:
        """Train; the model ends with the weights of the best epoch.

        Random numbers of an epoch depend on (seed, epoch, process) only, so a resumed run draws the same ones.

        Raises:
            ArtifactError: the checkpoint was written under other training settings.
        """
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume(self.checkpoint)
        while len(self.history) < self.config.epochs and not self._stopped():
            self._epoch(len(self.history))
        self.task.model.load_state_dict(self._best)
        return self.history

    def _epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        torch.manual_seed((self.config.seed * 10_007 + epoch) * 1_009 + self.processes.rank)
        rate = self.config.learning_rate * self.config.learning_rate_decay**epoch
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.task.model.train()
        totals: dict[str, Tensor] = {}
        for batch in self.task.batches(epoch):
            for name, (value, weight) in self._step(batch).items():
                totals[name] = torch.stack([value, weight]).detach() + totals.get(name, 0.0)
        losses = {name: float(total[0] / total[1].clamp(min=1e-12)) for name, total in totals.items()}
        self.task.model.eval()
        record = EpochRecord(epoch, losses, self.task.validate(), rate, time.perf_counter() - started)
        self._keep(record)

    def _step(self, batch: Batch) -> Terms:
        """One optimiser step; the terms over all processes."""
        with autocast(self.config):
            terms = self.task.terms(batch)
        weights = {name: sum_over_processes(weight) for name, (_, weight) in terms.items()}
        loss = torch.stack([value / weights[name].clamp(min=1e-12) for name, (value, _) in terms.items()]).sum()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        sum_gradients(self.task.model.parameters())
        self._optimizer.step()
        return {name: (sum_over_processes(value), weights[name]) for name, (value, _) in terms.items()}

    def _keep(self, record: EpochRecord) -> None:
        if _is_better(record, self.history):
            self._best = _copied(self.task.model)
        self.history.append(record)
        if not self.processes.is_first:
            return
        if self.checkpoint is not None:
            save_artifact(self.checkpoint, CHECKPOINT_KIND, self._state())
        if self.progress is not None:
            self.progress(record)

    def _stopped(self) -> bool:
        best = min(range(len(self.history)), key=lambda e: _comparable(self.history[e]), default=0)
        waited = len(self.history) - 1 - best
        return waited > 0 and waited >= self.config.patience

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(),
            "history": [asdict(record) for record in self.history],
            "model": self.task.model.state_dict(),
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
        }

    def _resume(self, path: Path) -> None:
        state = load_artifact(path, CHECKPOINT_KIND)
        if state["config"] != self.config.model_dump():
            raise ArtifactError(
                f"{path}: was written under {state['config']}, the settings are now {self.config.model_dump()}; "
                "delete the file to train from the start"
            )
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.task.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = {name: value.clone() for name, value in state["best"].items()}


def device_of(config: TrainConfig) -> torch.device:
    """The device that ``config`` asks for; ``auto`` is the GPU of this process's place where there is one."""
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", _local_rank() % torch.cuda.device_count())


def autocast(config: TrainConfig) -> AbstractContextManager[Any]:
    """Mixed precision (bfloat16, which needs no loss scaling): ``auto`` is on for GPUs and off for CPUs."""
    device = device_of(config)
    wanted = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _is_better(record: EpochRecord, history: list[EpochRecord]) -> bool:
    return not history or _comparable(record) < min(_comparable(earlier) for earlier in history)


def _comparable(record: EpochRecord) -> float:
    """Validation NE, an undefined one last."""
    return record.validation_ne if record.validation_ne == record.validation_ne else float("inf")


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
