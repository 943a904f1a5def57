"""A team's own FM: one small protocol and a checkpoint; the codec, the space and all that follows are the project's.

An FM enters as ``package.module:function``: a function that takes the checkpoint's path and returns an ``ExternalFm``.
Its package must be importable wherever inference runs, on Spark's workers too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from models.checkpoint import digest_file, load_artifact, save_artifact
from models.codec import Codec, Codes, pack_tensor
from models.config import CodecConfig, ExternalFmConfig, FmConfig, TrainConfig
from models.encode import FeatureEncoder, Rows
from models.errors import ArtifactError
from models.fm_data import FmRows, FmTensors, fm_tensors, labelled_table
from models.fm_train import MODEL_FILE, FmTrainResult, fm_metrics
from models.own_code import imported
from models.supervised_codec import make_codec
from models.trainer import EpochRecord, Task, Terms, Trainer

EXTERNAL_KIND = "external_fm"
MODEL_BATCH = 1024

Floats = npt.NDArray[np.float32]


class ExternalFm(Protocol):
    """A trained FM, ready to score."""

    def __call__(self, rows: pa.RecordBatch) -> tuple[Floats, Floats]:
        """N rows of fm_inputs -> logits [N, H], one a head in the order of the verticals, and captures [N, K].

        The same rows must give the same bytes; a row's output may depend on its own columns alone.
        """


LoadFm = Callable[[Path], ExternalFm]


def loader(name: str) -> LoadFm:
    """The function that ``package.module:function`` names.

    Raises:
        ModelConfigError: there is no such module or function.
    """
    return imported(name, "fm.external.load", "package.module:function, importable here and on workers")


class ExternalScorer:
    """An external FM and its codec: rows of fm_inputs to packed codes and logits, as ``FmScorer``.

    Args:
        name: ``package.module:function``, for messages.
        fm: the FM.
        codec: fitted on its captures.
        heads: verticals, in the order of the logits.
    """

    def __init__(self, name: str, fm: ExternalFm, codec: Codec, heads: list[str]) -> None:
        self.name, self.fm, self.codec, self.heads = name, fm, codec.eval(), heads

    @classmethod
    def load(cls, path: str | Path, digest: str | None = None) -> ExternalScorer:
        """Load from one file; the checkpoint in it is unpacked to a temporary file while the FM loads.

        Raises:
            ArtifactError: the file is missing, of another kind, or its digest is not ``digest``.
            ModelConfigError: the FM's code is not importable here.
        """
        content = load_artifact(path, EXTERNAL_KIND, digest)
        codec = make_codec(CodecConfig.model_validate_json(content["codec"]), content["width"], len(content["heads"]))
        codec.load_state_dict(content["state"])
        with tempfile.TemporaryDirectory(prefix="loopfm-fm-") as folder:
            checkpoint = Path(folder) / content["checkpoint_name"]
            checkpoint.write_bytes(content["checkpoint"].numpy().tobytes())
            fm = loader(content["load"])(checkpoint)
        return cls(content["load"], fm, codec, list(content["heads"]))

    @torch.inference_mode()
    def score(self, rows: Rows) -> tuple[Codes, Floats]:
        """N rows of fm_inputs -> packed codes uint8 [N, code_bytes] and logits float32 [N, H].

        Raises:
            ArtifactError: the FM gave other shapes than the protocol says, or values that are not finite.
        """
        config = self.codec.config
        codes, logits = [np.empty((0, config.code_bytes), np.uint8)], [np.empty((0, len(self.heads)), np.float32)]
        for own, captured in run_fm(self.name, self.fm, rows, len(self.heads)):
            codes.append(pack_tensor(self.codec(torch.from_numpy(captured)), config.bits).numpy())
            logits.append(own)
        return np.concatenate(codes), np.concatenate(logits)


def run_fm(name: str, fm: ExternalFm, rows: Rows, heads: int) -> Iterator[tuple[Floats, Floats]]:
    """Logits and captures, ``MODEL_BATCH`` rows at a time, checked.

    Raises:
        ArtifactError: see ``ExternalScorer.score``.
    """
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    for start in range(0, table.num_rows, MODEL_BATCH):
        batch = pa.concat_batches(table.slice(start, MODEL_BATCH).combine_chunks().to_batches())
        logits, captures = (np.ascontiguousarray(values, dtype=np.float32) for values in fm(batch))
        expected = f"logits [{batch.num_rows}, {heads}] and captures [{batch.num_rows}, K], all finite"
        shapes = (logits.shape, captures.shape[:1], captures.ndim)
        if shapes != ((batch.num_rows, heads), (batch.num_rows,), 2):
            raise ArtifactError(f"FM {name}: gave shapes {logits.shape} and {captures.shape}; needed: {expected}")
        if not (np.isfinite(logits).all() and np.isfinite(captures).all()):
            raise ArtifactError(f"FM {name}: gave values that are not finite; needed: {expected}")
        yield logits, captures


def fit_external(
    config: FmConfig,
    settings: ExternalFmConfig,
    heads: list[str],
    train: FmRows,
    validation: FmRows,
    out: Path,
    progress: Callable[[EpochRecord], None] | None = None,
) -> FmTrainResult:
    """Fit the codec on the captures of ``train``, measure the FM on ``validation``, save both as ``out/model.pt``.

    The FM itself is not trained. ``newest_instant`` is not before ``trained_until``.

    Raises:
        ModelConfigError: the FM cannot be loaded, or a window has no known label.
        ArtifactError: the checkpoint is missing, or the FM breaks the protocol.
    """
    checkpoint = Path(settings.checkpoint)
    if not checkpoint.is_file():
        raise ArtifactError(f"fm.external.checkpoint: {checkpoint}: no such file")
    fm = loader(settings.load)(checkpoint)
    windows = [_scored(settings.load, fm, rows, heads) for rows in (train, validation)]
    metrics = fm_metrics(windows[1].logits, windows[1].rows, heads)
    codec, losses = _fit_codec(config, heads, windows)
    # The FM stands still: its validation NE is that of every epoch of the codec.
    history = [replace(record, validation_ne=metrics["ne"]) for record in losses]
    if progress is not None:
        for record in history:
            progress(record)
    save_artifact(
        out / MODEL_FILE,
        EXTERNAL_KIND,
        {
            "load": settings.load,
            "checkpoint": torch.frombuffer(bytearray(checkpoint.read_bytes()), dtype=torch.uint8),
            "checkpoint_name": checkpoint.name,
            "codec": config.codec.model_dump_json(),
            "width": windows[0].captured.shape[1],
            "heads": heads,
            "state": dict(codec.state_dict()),
        },
    )
    newest = max(train.newest_instant(), validation.newest_instant(), settings.trained_until_ms)
    return FmTrainResult(str(out / MODEL_FILE), digest_file(out / MODEL_FILE), history, metrics, newest)


class _Window:
    """Labelled rows of a window and what the FM gave for them."""

    def __init__(self, rows: FmTensors, logits: Tensor, captured: Tensor) -> None:
        self.rows, self.logits, self.captured = rows, logits, captured

    def terms(self, codec: Codec, chosen: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.rows
        return codec.terms(self.captured[chosen], rows.labels[chosen], rows.known[chosen], rows.weight[chosen])


def _scored(name: str, fm: ExternalFm, rows: FmRows, heads: list[str]) -> _Window:
    labelled = fm_tensors(rows, FeatureEncoder([], {}, {}, {}), heads)
    made: list[Any] = list(run_fm(name, fm, labelled_table(rows, heads), len(heads)))
    logits, captured = (torch.from_numpy(np.concatenate([pair[place] for pair in made])) for place in (0, 1))
    return _Window(labelled, logits, captured)


def _fit_codec(config: FmConfig, heads: list[str], windows: list[_Window]) -> tuple[Codec, list[EpochRecord]]:
    settings: TrainConfig = config.train.model_copy(update={"device": "cpu", "precision": "float32"})
    train, validation = windows
    torch.manual_seed(settings.seed)
    codec = make_codec(config.codec, train.captured.shape[1], len(heads))

    def batches(epoch: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(settings.seed * 10_007 + epoch)
        yield from torch.randperm(len(train.captured), generator=generator).split(settings.batch_size)

    def terms(chosen: Tensor) -> Terms:
        return {"codec": train.terms(codec, chosen)}

    @torch.inference_mode()
    def validate() -> float:
        loss, weight = validation.terms(codec, torch.arange(len(validation.captured)))
        return float(loss / weight)

    history = Trainer(Task(codec, batches, terms, validate), settings).fit()
    return codec.eval(), history
