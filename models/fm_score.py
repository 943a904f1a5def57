"""Score rows with a saved FM: packed codes and logits from one pass, reproducible to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from models.checkpoint import load_artifact
from models.codec import Codes, pack_tensor
from models.config import FmConfig
from models.encode import FeatureEncoder
from models.fm import FmInputs
from models.fm_data import as_tensors, on_device
from models.fm_train import FM_KIND, FmWithCodec

MODEL_BATCH = 1024

# A short last batch is padded to the smallest of these shares of the model batch that holds it.
_TAIL_SHARES = (16, 4, 1)


class FmScorer:
    """A loaded FM that scores Arrow rows of fm_inputs.

    The model sees batches of a few fixed sizes, so a row's bytes depend only on the rows it is scored with and on the
    thread count: give it the same groups of rows and it gives the same bytes.

    Args:
        model: the FM and its codec, in evaluation mode.
        encoder: its fitted features.
        heads: verticals, in the order of the logits.
        bits: bits of a packed value.
        model_batch: rows of a full batch.
    """

    def __init__(
        self, model: FmWithCodec, encoder: FeatureEncoder, heads: list[str], bits: int, model_batch: int = MODEL_BATCH
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.heads = heads
        self.bits = bits
        self.sizes = [max(1, model_batch // share) for share in _TAIL_SHARES]
        self.device = next(model.parameters()).device

    @classmethod
    def load(
        cls,
        path: str | Path,
        digest: str | None = None,
        *,
        threads: int | None = None,
        device: str = "cpu",
        model_batch: int = MODEL_BATCH,
    ) -> FmScorer:
        """Load a saved FM; ``threads`` sets the thread count of this process's torch.

        Raises:
            ArtifactError: the file is missing, no FM, or its digest is not ``digest``.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        content = load_artifact(path, FM_KIND, digest)
        config = FmConfig.model_validate_json(content["config"])
        encoder = FeatureEncoder.from_state(content["encoder"])
        model = FmWithCodec(config, encoder, content["heads"])
        model.load_state_dict(content["state"], assign=True)
        return cls(model.to(device).eval(), encoder, content["heads"], config.codec.bits, model_batch)

    def score(self, rows: pa.Table | pa.RecordBatch) -> tuple[Codes, npt.NDArray[np.float32]]:
        """N rows of fm_inputs -> packed codes uint8 [N, code_bytes] and logits float32 [N, H].

        Raises:
            FeatureMismatchError: a feature of the model is absent or of another type.
        """
        return self.score_inputs(as_tensors(self.encoder.encode(rows)))

    @torch.inference_mode()
    def score_inputs(self, inputs: FmInputs) -> tuple[Codes, npt.NDArray[np.float32]]:
        """``score`` for encoded rows."""
        total = len(inputs.cat)
        codes, logits = [], []
        for start in range(0, total, self.sizes[-1]):
            count = min(self.sizes[-1], total - start)
            size = next(size for size in self.sizes if size >= count)
            batch = on_device(inputs, self.device, slice(start, start + count))
            output = self.model.fm(batch if count == size else _padded(batch, size))
            code = pack_tensor(self.model.codec(output.captured), self.bits)
            codes.append(code[:count].cpu())
            logits.append(output.logits[:count].float().cpu())
        if not total:
            return self._empty()
        return torch.cat(codes).numpy(), torch.cat(logits).numpy()

    def _empty(self) -> tuple[Codes, npt.NDArray[np.float32]]:
        width = self.model.codec.config.code_bytes
        return np.empty((0, width), np.uint8), np.empty((0, len(self.heads)), np.float32)


def _padded(inputs: FmInputs, size: int) -> FmInputs:
    return FmInputs(
        _pad(inputs.cat, size),
        _pad(inputs.num, size),
        {name: _pad(values, size) for name, values in inputs.lists.items()},
        {name: _pad(mask, size) for name, mask in inputs.masks.items()},
    )


def _pad(values: Tensor, size: int) -> Tensor:
    return torch.cat([values, values.new_zeros(size - len(values), *values.shape[1:])])
