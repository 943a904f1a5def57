"""Maps from one space's vectors to another's, fitted on examples that both FMs have seen.

A map lets a VM of one space read histories of another without retraining, and a new VM read old histories without a
backfill. It is applied to packed codes: unpack, map, cut to [-1, 1], pack as the target space packs.

Shape legend: N shared examples, A size of the source's vectors, B of the target's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.checkpoint import load_artifact, save_artifact
from models.codec import Codes, pack, unpack
from models.errors import ModelConfigError, SpaceMismatchError

ALIGNMENT_KIND = "alignment"
RIDGE = 1e-3
MLP_UNITS, MLP_STEPS, MLP_BATCH, MLP_RATE = 64, 1_000, 512, 3e-3

MapKind = Literal["orthogonal", "linear", "mlp"]
KINDS: tuple[MapKind, ...] = ("orthogonal", "linear", "mlp")
QUALITY = ("r2", "cosine", "equal")
Floats = npt.NDArray[np.float64]


class SpaceMap(nn.Module):
    """z [N, A] of the source -> [N, B] of the target: affine, and a hidden layer beside it where ``units`` is given."""

    def __init__(self, source: int, target: int, units: int | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(source, target)
        self.hidden = None
        if units is not None:
            self.hidden = nn.Sequential(nn.Linear(source, units), nn.ReLU(), nn.Linear(units, target))

    def forward(self, z: Tensor) -> Tensor:
        """float32 [N, A] -> [N, B]."""
        made = self.linear(z)
        return made if self.hidden is None else made + self.hidden(z)


@dataclass(frozen=True)
class SpaceCodes:
    """How a space packs its vectors."""

    space_id: str
    dim: int
    bits: int

    @property
    def code_bytes(self) -> int:
        """Bytes of one packed vector."""
        return self.dim * self.bits // 8


@dataclass(frozen=True)
class Alignment:
    """A fitted map between two named spaces.

    ``fitted_until``: the latest event_ts (ms) of the examples it was fitted or chosen on; it serves later rows only.
    """

    kind: MapKind
    source: SpaceCodes
    target: SpaceCodes
    fitted_until: int
    module: SpaceMap

    def require_target(self, space_id: str, dim: int, bits: int) -> None:
        """A model of space ``space_id`` may read what this map makes.

        Raises:
            SpaceMismatchError: the map leads to another space, or to vectors of another size.
        """
        if self.target != SpaceCodes(space_id, dim, bits):
            raise SpaceMismatchError(
                f"the map from {self.source.space_id} leads to {self.target}, the model reads {space_id} ({dim} values "
                f"of {bits} bits): run `loopfm align --from-space {self.source.space_id} --to-space {space_id}`"
            )

    @torch.inference_mode()
    def vectors(self, z: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 [N, A] -> float32 [N, B], cut to [-1, 1]."""
        made: npt.NDArray[np.float32] = self.module(torch.from_numpy(np.array(z, np.float32))).clamp(-1, 1).numpy()
        return made

    def codes(self, codes: Codes) -> Codes:
        """Packed vectors of the source [N, bytes] -> packed as the target packs [N, bytes]."""
        return pack(self.vectors(unpack(codes, self.source.bits)), self.target.bits)


def fit_map(kind: MapKind, a: Floats, b: Floats, seed: int = 0) -> SpaceMap:
    """Fit one map on the same examples' vectors in both spaces.

    ``orthogonal``: the rotation (and translation) that is nearest in the sum of squares (Schoenemann 1966); where the
    sizes differ, its semi-orthogonal form. ``linear``: ridge regression with ``RIDGE`` of the mean variance. ``mlp``:
    the linear map and one hidden layer beside it, trained by squared error.

    Args:
        kind: which map.
        a: [N, A] of the source.
        b: [N, B] of the target, row for row.
        seed: of the MLP.

    Raises:
        ModelConfigError: the rows do not match, or are fewer than the source's dimensions.
    """
    if len(a) != len(b) or len(a) <= a.shape[1]:
        raise ModelConfigError(
            f"alignment: got {len(a)} and {len(b)} vectors of {a.shape[1]} values; allowed: the same examples in both "
            "spaces, more of them than values"
        )
    weight = _rotation(a, b) if kind == "orthogonal" else _ridge(a, b)
    module = SpaceMap(a.shape[1], b.shape[1], MLP_UNITS if kind == "mlp" else None)
    with torch.no_grad():
        module.linear.weight.copy_(torch.from_numpy(weight))
        module.linear.bias.copy_(torch.from_numpy(b.mean(axis=0) - weight @ a.mean(axis=0)))
    if kind == "mlp":
        _train(module, a, b, seed)
    return module.eval()


def _rotation(a: Floats, b: Floats) -> Floats:
    left, _, right = np.linalg.svd((b - b.mean(axis=0)).T @ (a - a.mean(axis=0)), full_matrices=False)
    return np.asarray(left @ right)


def _ridge(a: Floats, b: Floats) -> Floats:
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    gram = x.T @ x
    penalty = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12)
    return np.asarray(np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ y).T)


def _train(module: SpaceMap, a: Floats, b: Floats, seed: int) -> None:
    x, y = (torch.from_numpy(values.astype(np.float32)) for values in (a, b))
    assert module.hidden is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in module.hidden:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        # It starts as the linear map, so that it can only become better.
        for parameter in module.hidden[-1].parameters():
            nn.init.zeros_(parameter)
        optimizer = torch.optim.Adam(module.hidden.parameters(), lr=MLP_RATE)
        for _ in range(MLP_STEPS):
            rows = torch.randint(len(x), (min(len(x), MLP_BATCH),))
            optimizer.zero_grad(set_to_none=True)
            (module(x[rows]) - y[rows]).square().mean().backward()
            optimizer.step()


def reconstruction(alignment: Alignment, a: Codes, b: Codes) -> dict[str, float]:
    """How well mapped codes give the target's own, on examples the map has not seen.

    Args:
        alignment: the map.
        a: packed vectors of the source [N, bytes].
        b: the target's own packed vectors of the same examples [N, bytes].

    Returns:
        ``r2``: share of the variance explained after packing; ``cosine``: mean cosine of the deviations from the mean;
        ``equal``: share of values packed to the very same level.
    """
    made, own = (np.asarray(unpack(codes, alignment.target.bits), np.float64) for codes in (alignment.codes(a), b))
    centre = own.mean(axis=0)
    variance = float(((own - centre) ** 2).sum())
    left, right = made - centre, own - centre
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosine = (left * right).sum(axis=1)[norms > 0] / norms[norms > 0]
    return {
        "r2": 1 - float(((made - own) ** 2).sum()) / variance if variance else float("nan"),
        "cosine": float(cosine.mean()) if len(cosine) else float("nan"),
        "equal": float((made == own).mean()),
    }


def save_alignment(path: Path, alignment: Alignment) -> str:
    """Write a map as one file of plain tensors; returns the digest."""
    content = {
        "map": alignment.kind,
        "spaces": [vars(space) for space in (alignment.source, alignment.target)],
        "fitted_until": alignment.fitted_until,
        "state": dict(alignment.module.state_dict()),
    }
    return save_artifact(path, ALIGNMENT_KIND, content)


def load_alignment(path: Path, digest: str | None = None) -> Alignment:
    """Read what ``save_alignment`` wrote.

    Raises:
        ArtifactError: the file is missing, no alignment, or its digest is not ``digest``.
    """
    content: Mapping[str, Any] = load_artifact(path, ALIGNMENT_KIND, digest)
    source, target = (SpaceCodes(**space) for space in content["spaces"])
    module = SpaceMap(source.dim, target.dim, MLP_UNITS if content["map"] == "mlp" else None)
    module.load_state_dict(content["state"])
    return Alignment(content["map"], source, target, int(content["fitted_until"]), module.eval())
