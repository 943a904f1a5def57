"""Training of a D-VAE: the same graphs, settings and seed give the same model, also when it was interrupted.

Shape legend: B graphs, L latent.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoint import load_artifact, save_artifact
from models.errors import ArtifactError
from search.dvae.config import DvaeConfig, DvaeTraining
from search.dvae.dags import DagBatch
from search.dvae.model import Dvae
from search.errors import SpaceError, StateError

MODEL_KIND = "dvae"
CHECKPOINT_KIND = "dvae-training"


@dataclass(frozen=True)
class EpochLosses:
    """Means over the graphs of an epoch (nats of types, of edges, and of the KL term before its weight), wall time."""

    epoch: int
    types: float
    edges: float
    kl: float
    learning_rate: float
    seconds: float


class DvaeTrainer:
    """Trains a new model on graphs.

    Args:
        config: sizes.
        training: optimiser and epochs.
        graphs: to train on.
        checkpoint: file written after each epoch; ``fit`` goes on from it where it exists.

    Raises:
        SpaceError: no graphs, or graphs padded to another number of vertices than the model's.
    """

    def __init__(
        self, config: DvaeConfig, training: DvaeTraining, graphs: DagBatch, checkpoint: Path | None = None
    ) -> None:
        if not len(graphs) or graphs.types.shape[1] != config.max_vertices:
            raise SpaceError(
                f"{len(graphs)} graphs of {graphs.types.shape[1]} padded vertices; needed: at least one graph, "
                f"padded to max_vertices = {config.max_vertices}"
            )
        self.training, self.graphs, self.checkpoint = training, graphs, checkpoint
        with torch.random.fork_rng():
            torch.manual_seed(training.seed)
            self.model = Dvae(config)
        self.history: list[EpochLosses] = []
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=training.learning_rate, fused=True)

    def fit(
        self, progress: Callable[[EpochLosses], None] | None = None, stop: Callable[[], bool] | None = None
    ) -> Dvae:
        """Train the epochs that are left; returns the model.

        Args:
            progress: called after each epoch.
            stop: asked before each epoch; the model is as far as it is when the answer is yes (``history`` tells).

        Raises:
            StateError: the checkpoint is of other settings or graphs, or cannot be read.
        """
        self._resume()
        while len(self.history) < self.training.epochs and not (stop is not None and stop()):
            self.history.append(self._epoch(len(self.history)))
            self._save()
            if progress is not None:
                progress(self.history[-1])
        return self.model

    def _epoch(self, epoch: int) -> EpochLosses:
        start, sums = time.perf_counter(), torch.zeros(3)
        batches = list(self._batches(epoch))
        rate = self.training.learning_rate
        for step, (batch, noise) in enumerate(batches):
            rate = self._set_rate((epoch + step / len(batches)) / self.training.epochs)
            self._optimizer.zero_grad()
            loss = self.model.loss(batch, noise)
            loss.total.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
            self._optimizer.step()
            sums += torch.stack([loss.types, loss.edges, loss.kl]).detach() * len(batch)
        types, edges, kl = (sums / len(self.graphs)).tolist()
        return EpochLosses(epoch, types, edges, kl, rate, time.perf_counter() - start)

    def _batches(self, epoch: int) -> Iterator[tuple[DagBatch, Tensor]]:
        """Shuffled batches and their noise [B, L]; they depend on the seed and the epoch alone."""
        generator = torch.Generator().manual_seed(self.training.seed * 1_000_003 + epoch)
        for rows in torch.randperm(len(self.graphs), generator=generator).split(self.training.batch_size):
            yield self.graphs[rows], torch.randn(len(rows), self.model.config.latent, generator=generator)

    def _set_rate(self, done: float) -> float:
        """The learning rate after the share ``done`` of the training."""
        falling = 0.5 * (1 + math.cos(math.pi * done))
        rate = self.training.learning_rate * (self.training.last_rate + (1 - self.training.last_rate) * falling)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256(b"".join(self.graphs.codes())).hexdigest()
        return {"config": self.model.config.model_dump(), "training": self.training.model_dump(), "graphs": digest}

    def _save(self) -> None:
        if self.checkpoint is not None:
            content = {
                **self._identity(),
                "model": self.model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "history": [asdict(record) for record in self.history],
            }
            save_artifact(self.checkpoint, CHECKPOINT_KIND, content)

    def _resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        try:
            content = load_artifact(self.checkpoint, CHECKPOINT_KIND)
        except ArtifactError as error:
            raise StateError(f"{error}; delete it to train from the start") from error
        for name, own in self._identity().items():
            if content[name] != own:
                raise StateError(
                    f"{self.checkpoint}: its {name} differ from those of this training; "
                    "delete it, or name another checkpoint"
                )
        self.model.load_state_dict(content["model"])
        self._optimizer.load_state_dict(content["optimizer"])
        self.history = [EpochLosses(**record) for record in content["history"]]


def save_dvae(path: Path, model: Dvae) -> str:
    """Write a model to a file; returns its digest."""
    return save_artifact(path, MODEL_KIND, {"config": model.config.model_dump(), "model": model.state_dict()})


def load_dvae(path: Path) -> Dvae:
    """Read a model that ``save_dvae`` wrote.

    Raises:
        ArtifactError: the file is missing or no D-VAE.
    """
    content = load_artifact(path, MODEL_KIND)
    model = Dvae(DvaeConfig(**content["config"]))
    model.load_state_dict(content["model"])
    return model
