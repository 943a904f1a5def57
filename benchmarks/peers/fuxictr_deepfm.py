"""DeepFM by FuxiCTR's own trainer and data loader; run by the interpreter of FuxiCTR's environment, nothing of ours.

``python fuxictr_deepfm.py TASK.json RESULT.json``. FuxiCTR (Apache-2.0) ships its layers, trainer and loaders as a
package and its models as examples; the model below puts its layers together as Guo et al., arXiv 1703.04247, do.

TASK.json: ``folder`` (rows, as ``train.npz``, ``valid.npz`` and ``train.parquet``, ``valid.parquet``), ``loader``
(``npz`` or ``parquet``) and ``workers``, ``features`` (name -> vocabulary size), ``label``, ``batch_size``,
``embedding_dim``, ``embedding_std``, ``base_rate``, ``hidden_units``, ``learning_rate``, ``epochs``,
``threads``, ``seed``.
RESULT.json: ``rows``, ``steps``, ``epoch_seconds`` (one an epoch, validation left out), ``memory_seconds`` (the same
steps on tensors already in memory), ``valid_logloss`` (one an epoch), ``fuxictr``, ``torch`` (versions).
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything

Task = dict[str, Any]

MEMORY_PASSES = 2


class DeepFM(BaseModel):
    """FuxiCTR's embeddings, FM and MLP; parameters start as those of the model that it is compared with."""

    def __init__(self, feature_map: FeatureMap, task: Task) -> None:
        super().__init__(
            feature_map,
            model_id="DeepFM",
            monitor={"logloss": 1},
            monitor_mode="min",
            early_stop_patience=10**6,
            reduce_lr_on_plateau=False,
            verbose=0,
            model_root=str(task["folder"]),
            metrics=["logloss", "AUC"],
        )
        self.embedding_layer = FeatureEmbedding(feature_map, task["embedding_dim"])
        self.fm = FactorizationMachine(feature_map)
        self.mlp = MLP_Block(
            input_dim=feature_map.sum_emb_out_dim(), output_dim=1, hidden_units=list(task["hidden_units"])
        )
        self.compile("adam", "binary_crossentropy", task["learning_rate"])
        self._initialise(task["embedding_std"], task["base_rate"])
        self.epoch_seconds: list[float] = []
        self.valid_logloss: list[float] = []
        self._evaluation_seconds = 0.0

    def _initialise(self, std: float, base_rate: float) -> None:
        for module in self.modules():
            if isinstance(module, torch.nn.Embedding):
                torch.nn.init.normal_(module.weight, std=std)
            elif isinstance(module, torch.nn.Linear):
                module.reset_parameters()
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, torch.nn.Embedding):
                    module.weight[0] = 0.0
            self.fm.lr_layer.bias.fill_(math.log(base_rate / (1 - base_rate)))

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Probabilities of a batch, [B, 1]."""
        values = self.get_inputs(inputs)
        embedded = self.embedding_layer(values)
        logit = self.fm(values, embedded) + self.mlp(embedded.flatten(start_dim=1))
        return {"y_pred": self.output_activation(logit)}

    def train_epoch(self, data_generator: Any) -> None:
        """FuxiCTR's epoch, timed without the validation that it ends with."""
        self._evaluation_seconds = 0.0
        start = time.perf_counter()
        super().train_epoch(data_generator)
        self.epoch_seconds.append(time.perf_counter() - start - self._evaluation_seconds)

    def eval_step(self) -> None:
        """FuxiCTR's validation, timed."""
        start = time.perf_counter()
        super().eval_step()
        self._evaluation_seconds += time.perf_counter() - start

    def evaluate(self, data_generator: Any, metrics: list[str] | None = None) -> dict[str, float]:
        """FuxiCTR's evaluation; its logloss is kept."""
        logs: dict[str, float] = super().evaluate(data_generator, metrics)
        self.valid_logloss.append(float(logs["logloss"]))
        return logs


def feature_map(task: Task) -> FeatureMap:
    """FuxiCTR's description of the columns: categorical features of known vocabulary, and one label."""
    described = FeatureMap("rows", str(task["folder"]))
    described.labels = [task["label"]]
    described.default_emb_dim = task["embedding_dim"]
    described.features = OrderedDict(
        (name, {"type": "categorical", "source": "", "vocab_size": size}) for name, size in task["features"].items()
    )
    described.num_fields = len(task["features"])
    described.set_column_index()
    return described


def loaders(task: Task, described: FeatureMap) -> tuple[Any, Any]:
    """FuxiCTR's loaders of training and validation rows."""
    suffix = task["loader"]
    folder = Path(task["folder"])
    train, valid = RankDataLoader(
        described,
        stage="train",
        train_data=str(folder / f"train.{suffix}"),
        valid_data=str(folder / f"valid.{suffix}"),
        batch_size=task["batch_size"],
        shuffle=True,
        data_format=suffix,
        num_workers=task["workers"],
    )
    return train, valid


def memory_seconds(model: DeepFM, train: Any) -> float:
    """Time of FuxiCTR's training steps on the batches of one epoch, already in memory."""
    batches = [{name: values.clone() for name, values in batch.items()} for batch in train]
    model.train()
    for batch in batches[:20]:
        model.train_step(batch).item()
    start = time.perf_counter()
    for _ in range(MEMORY_PASSES):
        for batch in batches:
            model.train_step(batch).item()
    return (time.perf_counter() - start) / MEMORY_PASSES


def run(task: Task) -> dict[str, Any]:
    """Train, validate and time as ``task`` says."""
    torch.set_num_threads(task["threads"])
    seed_everything(task["seed"])
    described = feature_map(task)
    Path(task["folder"], described.dataset_id).mkdir(exist_ok=True)
    train, valid = loaders(task, described)
    model = DeepFM(described, task)
    model.fit(train, epochs=task["epochs"], validation_data=valid)
    return {
        "rows": train.num_samples,
        "steps": len(train),
        "epoch_seconds": model.epoch_seconds,
        "valid_logloss": model.valid_logloss,
        "memory_seconds": memory_seconds(model, train),
        "fuxictr": version("fuxictr"),
        "torch": version("torch"),
    }


def main() -> None:
    """Read the task named first, write the result named second."""
    logging.basicConfig(level=logging.WARNING)
    task, result = (Path(argument) for argument in sys.argv[1:])
    result.write_text(json.dumps(run(json.loads(task.read_text()))))


if __name__ == "__main__":
    main()
