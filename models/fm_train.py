"""Train an FM and its codec on one window: ``train_fm``, or several processes by models/fm_launch.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoint import digest_file, save_artifact
from models.config import FeatureSpec, FmConfig
from models.distributed import Processes, gather_rows, process_group, wait_for_all
from models.encode import FeatureEncoder
from models.fm import FmOutput, FoundationModel, multitask_bce
from models.fm_data import FmBatch, FmRows, FmTensors, fm_tensors
from models.fm_refresh import FM_KIND, average_with, read_fm, start_from
from models.metrics import auc, calibration, normalized_entropy
from models.supervised_codec import make_codec
from models.trainer import EpochRecord, Task, Terms, Trainer, autocast, device_of

MODEL_FILE = "model.pt"
CHECKPOINT_FILE = "checkpoint.pt"

VALIDATION_BATCH = 8192


@dataclass(frozen=True)
class FmTrainResult:
    """A trained FM.

    ``metrics`` are those of the validation window (``ne``, ``auc``, ``calibration``, also ``ne_HEAD`` ..);
    ``newest_instant`` is the latest event_ts and label_available_at used (ms): the space's cutoff is not before it.
    """

    path: str
    digest: str
    history: list[EpochRecord]
    metrics: dict[str, float]
    newest_instant: int


class FmWithCodec(nn.Module):
    """An FM and the codec trained beside it. The codec's parameters and gradients are apart from the FM's."""

    def __init__(self, config: FmConfig, encoder: FeatureEncoder, heads: list[str]) -> None:
        super().__init__()
        self.fm = FoundationModel(config, encoder, len(heads))
        self.codec = make_codec(config.codec, self.fm.capture_width, len(heads))
        self.future = None if config.future is None else nn.Linear(self.fm.stack.width, len(heads))
        self.future_weight = 0.0 if config.future is None else config.future.weight

    def terms(self, batch: FmBatch) -> Terms:
        """Loss terms of a batch: ``fm`` (logistic loss), ``codec`` (its own objective), ``future`` (rates to come)."""
        output: FmOutput = self.fm(batch.inputs)
        terms: Terms = {
            "fm": multitask_bce(output.logits, batch.labels, batch.known, batch.weight),
            "codec": self.codec.terms(output.captured, batch.labels, batch.known, batch.weight),
        }
        if self.future is not None and batch.future is not None:
            loss, weights = multitask_bce(self.future(output.hidden), *batch.future, batch.weight)
            terms["future"] = (self.future_weight * loss, weights)
        return terms


def train_fm(
    config: FmConfig,
    specs: list[FeatureSpec],
    heads: list[str],
    train: FmRows,
    validation: FmRows,
    out: Path,
    progress: Callable[[EpochRecord], None] | None = None,
    resume: bool = False,
    start: Path | None = None,
    snapshots: Sequence[Path] = (),
) -> FmTrainResult:
    """Train on one window, stop on the next, save ``out/model.pt``.

    ``start``: file of an FM to start from, whose vocabularies are extended. ``snapshots``: files of FMs that ``start``
    came from or is; the trained weights are averaged with theirs.

    Vocabularies and normalisers are fitted on ``train``. After each epoch ``out/checkpoint.pt`` is written; with
    ``resume`` training goes on from it. Started by torchrun, every process calls this with the same arguments.

    Raises:
        ModelConfigError: settings do not fit the data, or a window has no known label.
        FeatureMismatchError: a feature is absent or of another type.
        ArtifactError: the checkpoint to resume from was written under other settings.
    """
    device = device_of(config.train)
    checkpoint = out / CHECKPOINT_FILE
    with process_group(device) as processes:
        if not resume and processes.is_first:
            checkpoint.unlink(missing_ok=True)
        old = None if start is None else read_fm(start)
        known = FeatureEncoder([], {}, {}, {}) if old is None else old.encoder
        encoder = known.extend(train.inputs, specs, config.max_vocabulary)
        torch.manual_seed(config.train.seed)
        model = FmWithCodec(config, encoder, heads).to(device)
        if old is not None:
            start_from(old, model, heads)
        tensors, held_out = fm_tensors(train, encoder, heads, config.future), fm_tensors(validation, encoder, heads)
        fit = _Fit(config, model, tensors, held_out, processes, device)
        history = Trainer(fit.task(), config.train, checkpoint, processes, progress).fit()
        model.eval()
        if snapshots:
            average_with([read_fm(path) for path in snapshots], model, encoder)
        metrics = fm_metrics(fit.logits(), held_out, heads)
        if processes.is_first:
            save_fm(out / MODEL_FILE, config, heads, encoder, model)
        wait_for_all()
    newest = max(train.newest_instant(), validation.newest_instant())
    return FmTrainResult(str(out / MODEL_FILE), digest_file(out / MODEL_FILE), history, metrics, newest)


def save_fm(path: Path, config: FmConfig, heads: list[str], encoder: FeatureEncoder, model: FmWithCodec) -> str:
    """Write the model, its encoder and its settings as one file of plain tensors; returns the digest."""
    content = {
        "config": config.model_dump_json(),
        "heads": heads,
        "encoder": encoder.to_state(),
        "state": {name: value.cpu() for name, value in model.state_dict().items()},
    }
    return save_artifact(path, FM_KIND, content)


def fm_metrics(logits: Tensor, rows: FmTensors, heads: list[str]) -> dict[str, float]:
    """NE, AUC and calibration of each head (``ne_HEAD`` ..) and their means over the heads that define them."""
    figures: dict[str, list[float]] = {"ne": [], "auc": [], "calibration": []}
    metrics: dict[str, float] = {}
    p = torch.sigmoid(logits.double()).cpu().numpy()
    for column, head in enumerate(heads):
        known = rows.known[:, column].numpy() > 0
        label = rows.labels[:, column].numpy()[known].astype(np.float64)
        weight = rows.weight.numpy()[known].astype(np.float64)
        for name, figure in (("ne", normalized_entropy), ("auc", auc), ("calibration", calibration)):
            value = figure(label, p[known, column], weight) if known.any() else float("nan")
            metrics[f"{name}_{head}"] = value
            figures[name].append(value)
    means = {name: np.asarray(values)[np.isfinite(values)] for name, values in figures.items()}
    return {name: float(found.mean()) if len(found) else float("nan") for name, found in means.items()} | metrics


@dataclass(frozen=True)
class _Fit:
    config: FmConfig
    model: FmWithCodec
    train: FmTensors
    validation: FmTensors
    processes: Processes
    device: torch.device

    def task(self) -> Task[FmBatch]:
        settings = self.config.train
        return Task(
            model=self.model,
            batches=lambda epoch: self.train.shuffled(
                epoch, settings.seed, settings.batch_size, self.processes, self.device
            ),
            terms=self.model.terms,
            validate=self._ne,
        )

    def _ne(self) -> float:
        heads = [str(column) for column in range(self.validation.labels.shape[1])]
        return fm_metrics(self.logits(), self.validation, heads)["ne"]

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Logits of the validation rows [N, H], the same in every process."""
        found = []
        for batch in self.validation.in_order(VALIDATION_BATCH, self.processes, self.device):
            with autocast(self.config.train):
                found.append(self.model.fm(batch.inputs).logits.float())
        own = torch.cat(found) if found else torch.empty(0, self.validation.labels.shape[1], device=self.device)
        return gather_rows(own, self.processes, len(self.validation))
