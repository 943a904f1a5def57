"""A new FM built on earlier ones: warm start, and the average of the last snapshots' weights.

Both keep the vectors of one FM near those of the next: a consistent space is worth more to a VM than a fresher one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoint import load_artifact
from models.encode import FeatureEncoder
from models.errors import FeatureMismatchError, ModelConfigError

FM_KIND = "fm"
_EMBEDDINGS = "fm.features.embeddings."


@dataclass(frozen=True)
class SavedFm:
    """An FM's file: its encoder, heads and weights by name."""

    path: Path
    encoder: FeatureEncoder
    heads: list[str]
    state: dict[str, Tensor]


def read_fm(path: Path) -> SavedFm:
    """Read an FM's file.

    Raises:
        ArtifactError: it is missing, or no FM.
    """
    content = load_artifact(path, FM_KIND)
    return SavedFm(path, FeatureEncoder.from_state(content["encoder"]), list(content["heads"]), content["state"])


@torch.no_grad()
def start_from(old: SavedFm, model: nn.Module, heads: list[str]) -> None:
    """Copy every weight of ``old``, embeddings by id; what only the new model has stays as initialised.

    The new model's encoder must extend the old one's (``FeatureEncoder.extend``), so that known ids keep their rows.

    Raises:
        FeatureMismatchError: other heads, or a layer of another size.
    """
    if old.heads != heads:
        raise FeatureMismatchError(f"{old.path}: its heads are {old.heads}, the new FM's {heads}; train fresh")
    for name, value in model.state_dict().items():
        source = old.state.get(name)
        if source is None:
            continue
        grown = name.startswith(_EMBEDDINGS) and len(source) <= len(value) and source.shape[1:] == value.shape[1:]
        if source.shape != value.shape and not grown:
            raise FeatureMismatchError(
                f"{old.path}: {name} has shape {tuple(source.shape)}, the new FM's {tuple(value.shape)}; keep features "
                "and layers, or train fresh"
            )
        value[: len(source)] = source.to(value.device)


@torch.no_grad()
def average_with(snapshots: Sequence[SavedFm], model: nn.Module, encoder: FeatureEncoder) -> None:
    """Replace weights by their mean over ``model`` and ``snapshots`` (SUM, arXiv 2311.09544: the last K of a chain).

    Every snapshot must be an ancestor by warm start: then its weights lie near, and its ids hold the same rows. A row
    of an embedding that some snapshots lack is the mean over those that have it.

    Raises:
        ModelConfigError: a snapshot is no ancestor.
    """
    for snapshot in snapshots:
        _require_ancestor(snapshot, encoder)
    for name, value in model.state_dict().items():
        count = torch.ones(len(value), *[1] * (value.dim() - 1), device=value.device)
        for snapshot in snapshots:
            source = snapshot.state.get(name)
            if source is not None:
                value[: len(source)] += source.to(value.device)
                count[: len(source)] += 1
        value /= count


def _require_ancestor(snapshot: SavedFm, encoder: FeatureEncoder) -> None:
    for name, vocabulary in snapshot.encoder.vocabularies.items():
        own = encoder.vocabularies.get(name)
        if own is None or not np.array_equal(own.ids[: len(vocabulary.ids)], vocabulary.ids):
            raise ModelConfigError(
                f"{snapshot.path}: its ids of {name} are not the first of the new FM's; average only FMs that were "
                "warm started one from the other"
            )
