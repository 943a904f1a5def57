"""Rows that an FM trains on: fm_inputs and labels as Arrow tables, encoded once into tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from models.config import FutureLabel
from models.distributed import Processes
from models.encode import Encoded, FeatureEncoder
from models.errors import FeatureMismatchError, ModelConfigError
from models.fm import FmInputs
from models.future_labels import future_rates
from models.metrics import places_of


@dataclass(frozen=True)
class FmRows:
    """One window of fm_inputs and its labels.

    ``labels`` has (example_id, vertical, label, label_available_at); only those known at ``known_at`` (ms) are used.
    """

    inputs: pa.Table
    labels: pa.Table
    known_at: int

    def newest_instant(self) -> int:
        """The latest event_ts and label_available_at that a model trained on these rows has used (ms)."""
        known = _known_labels(self)
        instants = [self.inputs["event_ts"], known["label_available_at"]]
        return max((pc.max(column).as_py() or 0 for column in instants), default=0)


class FmBatch(NamedTuple):
    """inputs of n rows, labels float32 [n, H], known float32 [n, H] (1 where the label is), effective weight [n].

    ``future``: rates float32 [n, H] and which are known [n, H], where the FM learns them.
    """

    inputs: FmInputs
    labels: Tensor
    known: Tensor
    weight: Tensor
    future: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class FmTensors:
    """A window's labelled rows in memory; ``example_id`` int64 [N], the others as in ``FmBatch``."""

    example_id: Tensor
    inputs: FmInputs
    labels: Tensor
    known: Tensor
    weight: Tensor
    future: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.weight)

    def batch(self, rows: Tensor, device: torch.device) -> FmBatch:
        """Rows by index, on ``device``."""
        return FmBatch(
            on_device(self.inputs, device, rows),
            self.labels[rows].to(device),
            self.known[rows].to(device),
            self.weight[rows].to(device),
            None if self.future is None else (self.future[0][rows].to(device), self.future[1][rows].to(device)),
        )

    def shuffled(
        self, epoch: int, seed: int, size: int, processes: Processes, device: torch.device
    ) -> Iterator[FmBatch]:
        """This process's share of every global batch of ``size`` rows, in an order that (seed, epoch) fixes.

        It depends on the rows alone, not on the order of their files.
        """
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed * 10_007 + epoch))
        order = self.example_id.argsort()[drawn]
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size][processes.rank :: processes.world], device)

    def in_order(self, size: int, processes: Processes, device: torch.device) -> Iterator[FmBatch]:
        """This process's rows (rank, rank + world, ..), ``size`` at a time."""
        own = torch.arange(processes.rank, len(self), processes.world)
        for start in range(0, len(own), size):
            yield self.batch(own[start : start + size], device)


def fm_tensors(rows: FmRows, encoder: FeatureEncoder, heads: list[str], future: FutureLabel | None = None) -> FmTensors:
    """Encode the rows that have a known label of at least one head; ``future`` adds the rates of the time after them.

    Raises:
        ModelConfigError: no row has one.
        FeatureMismatchError: a feature, or a column such as weight, is absent.
    """
    labels, known = _label_matrix(rows, heads)
    used = known.any(axis=1)
    if not used.any():
        raise ModelConfigError(
            f"no row of the FM's window has a label of {heads} known at {rows.known_at} ms: widen the window"
        )
    table = rows.inputs.filter(pa.array(used))
    return FmTensors(
        torch.tensor(table["example_id"].to_numpy()),
        as_tensors(encoder.encode(table)),
        torch.from_numpy(labels[used]),
        torch.from_numpy(known[used].astype(np.float32)),
        torch.from_numpy(_effective_weight(table)),
        None if future is None else _future(table, labels[used], known[used], future),
    )


def labelled_table(rows: FmRows, heads: list[str]) -> pa.Table:
    """The rows of fm_inputs that ``fm_tensors`` keeps, in its order."""
    return rows.inputs.filter(pa.array(_label_matrix(rows, heads)[1].any(axis=1)))


def _future(
    table: pa.Table, labels: npt.NDArray[np.float32], known: npt.NDArray[np.bool_], settings: FutureLabel
) -> tuple[Tensor, Tensor]:
    missing = sorted(set(settings.key) - set(table.column_names))
    if missing:
        raise FeatureMismatchError(f"fm.future.key: columns {missing} are not in fm_inputs; allowed: entities")
    keys = np.stack([table[name].to_numpy() for name in settings.key], axis=1)
    window = int(settings.window_hours * 3_600_000)
    event_ts = table["event_ts"].to_numpy()
    rates, seen = future_rates(keys, event_ts, labels, known, _effective_weight(table), window)
    return torch.from_numpy(rates), torch.from_numpy(seen.astype(np.float32))


def as_tensors(encoded: Encoded) -> FmInputs:
    """Encoded rows as tensors that share their memory."""
    return FmInputs(
        torch.from_numpy(encoded.cat),
        torch.from_numpy(encoded.num),
        {name: torch.from_numpy(values) for name, values in encoded.lists.items()},
        {name: torch.from_numpy(mask) for name, mask in encoded.masks.items()},
    )


def on_device(inputs: FmInputs, device: torch.device, rows: Tensor | slice) -> FmInputs:
    """Chosen rows on ``device``."""
    return FmInputs(
        inputs.cat[rows].to(device),
        inputs.num[rows].to(device),
        {name: values[rows].to(device) for name, values in inputs.lists.items()},
        {name: mask[rows].to(device) for name, mask in inputs.masks.items()},
    )


def _known_labels(rows: FmRows) -> pa.Table:
    labels = rows.labels
    known = pc.and_(pc.is_valid(labels["label"]), pc.less_equal(labels["label_available_at"], rows.known_at))
    return labels.filter(pc.and_(known, pc.is_in(labels["example_id"], rows.inputs["example_id"])))


def _label_matrix(rows: FmRows, heads: list[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """labels [N, H] (0 where unknown) and which are known [N, H]; an example without a head's label has none of it."""
    ids = rows.inputs["example_id"].to_numpy()
    labels = np.zeros((len(ids), len(heads)), np.float32)
    known = np.zeros((len(ids), len(heads)), np.bool_)
    table = _known_labels(rows)
    for column, head in enumerate(heads):
        own = table.filter(pc.equal(table["vertical"], head))
        place = places_of(ids, own["example_id"].to_numpy())
        labels[place, column] = own["label"].to_numpy()
        known[place, column] = True
    return labels, known


def _effective_weight(table: pa.Table) -> npt.NDArray[np.float32]:
    missing = [name for name in ("weight", "sampling_rate") if name not in table.column_names]
    if missing:
        raise FeatureMismatchError(f"columns {missing}: the rows have none; read whole rows of fm_inputs")
    return (table["weight"].to_numpy() / table["sampling_rate"].to_numpy()).astype(np.float32)
