"""Test scores of finished VMs, kept beside the models, so that a benchmark run again only computes figures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.metrics import Scores

HISTORY = "has_history."
COSTS = "costs"


@dataclass(frozen=True)
class Scored:
    """A VM's test scores, its validation NE, and what it costs.

    ``vm_bytes``: of its files; ``rows_per_second``: scored, reading rows and histories included.
    """

    scores: Scores
    vm_bytes: float
    rows_per_second: float
    validation_ne: float


@dataclass(frozen=True)
class KeptScores:
    """Scores in ``folder``, one file a name; other arrays than those of ``Scores`` are refused when read."""

    folder: Path

    def keep(self, name: str, scored: Scored) -> None:
        """Write one file, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {key: value for key, value in vars(scored.scores).items() if key != "has_history"}
        arrays |= {f"{HISTORY}{key}": has for key, has in scored.scores.has_history.items()}
        arrays[COSTS] = np.array([scored.vm_bytes, scored.rows_per_second, scored.validation_ne])
        unfinished = self.folder / f"{name}.{os.getpid()}.npz"
        np.savez_compressed(unfinished, **arrays)
        unfinished.rename(self._path(name))

    def find(self, name: str) -> Scored | None:
        """What was kept under a name, or None."""
        if not self._path(name).exists():
            return None
        with np.load(self._path(name)) as found:
            arrays = dict(found)
        costs = arrays.pop(COSTS)
        histories = {key: arrays.pop(key) for key in list(arrays) if key.startswith(HISTORY)}
        has = {key.removeprefix(HISTORY): value for key, value in histories.items()}
        return Scored(Scores(**arrays, has_history=has), *(float(cost) for cost in costs))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"
