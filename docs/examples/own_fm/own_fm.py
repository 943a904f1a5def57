"""An FM of one's own in plain NumPy: a hidden layer over numbers of fm_inputs, one logit a head.

It stands for whatever a team trains elsewhere. The project needs ``load`` alone, and what it returns: rows in, logits
and captured activations out. ``train`` makes the checkpoint of the example.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float32]

HIDDEN, STEPS, RATE = 32, 300, 0.5


class OwnFm:
    """Weights by name, as the checkpoint holds them."""

    def __init__(self, weights: dict[str, npt.NDArray[np.generic]]) -> None:
        self.columns = [str(name) for name in weights["columns"]]
        self.hidden, self.heads = weights["hidden"].astype(np.float32), weights["heads"].astype(np.float32)

    def __call__(self, rows: pa.RecordBatch) -> tuple[Floats, Floats]:
        """N rows of fm_inputs -> logits [N, H] and the hidden layer [N, 32], which the codec compresses."""
        captured = np.tanh(numbers(rows, self.columns) @ self.hidden)
        return captured @ self.heads[:-1] + self.heads[-1], captured


def load(checkpoint: Path) -> OwnFm:
    """What ``fm.external.load`` names."""
    with np.load(checkpoint) as weights:
        return OwnFm(dict(weights))


def train(rows: pa.Table, labels: Floats, columns: list[str], checkpoint: Path) -> None:
    """A fixed random hidden layer and a logistic regression a head on it.

    Args:
        rows: the team's own training rows, with ``columns``.
        labels: 0 or 1 [N, H], heads in the order of the verticals.
        columns: numbers that the FM reads.
        checkpoint: file to write.
    """
    hidden = np.random.default_rng(0).normal(size=(len(columns) + 1, HIDDEN)).astype(np.float32)
    x = np.tanh(numbers(rows, columns) @ hidden)
    x = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
    heads = np.zeros((HIDDEN + 1, labels.shape[1]), np.float32)
    for _ in range(STEPS):
        heads += RATE * x.T @ (labels - 1 / (1 + np.exp(-x @ heads))) / len(x)
    np.savez(checkpoint, hidden=hidden, heads=heads, columns=np.array(columns))


def numbers(rows: pa.RecordBatch | pa.Table, columns: list[str]) -> Floats:
    """The columns beside a constant [N, C + 1]; nulls are 0."""
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    own = [table[name].fill_null(0).to_numpy().astype(np.float32) for name in columns]
    return np.stack([*own, np.ones(table.num_rows, np.float32)], axis=1)
