"""Scoring by a VM: rows of a feed, or rows and exported histories in hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from models.alignment import Alignment
from models.errors import FeatureMismatchError
from models.feed import ROW_COLUMNS, FeatureFeed, make_batch, needed_columns, token_columns
from models.histories import decode_histories
from models.metrics import Floats, Scores
from models.slates import whole_slates
from models.vm_artifact import VmArtifact
from models.vm_data import HistoryKey, VmBatch

SCORE_BATCH = 8192


def score_vm(artifact: VmArtifact, feed: FeatureFeed, batch_size: int = SCORE_BATCH) -> Scores:
    """Scores of every row of a feed, in the order of its batches.

    Raises:
        SpaceMismatchError: the feed is of another space than the model.
    """
    artifact.check_inputs(feed.inputs)
    return join_scores([score_batch(artifact, batch) for batch in feed.batches(artifact.encoder, batch_size)])


def predict_batch(
    artifact: VmArtifact,
    rows: pa.Table,
    histories: Mapping[HistoryKey, pa.Table],
    alignment: Alignment | None = None,
) -> Floats:
    """p of rows of table ``features`` from histories in hand, as serving does it.

    Args:
        artifact: the VM.
        rows: its features, and ``event_ts``, ``as_of`` and ``key_NAME`` where it reads histories, ``impression_id``
            where it compares within impressions; no label is needed.
        histories: rows of table ``histories`` by key, their ``space_id`` column included; found by (key_id, as_of).
        alignment: maps histories of another space to the model's.

    Returns:
        float64 [N].

    Raises:
        SpaceMismatchError: histories of another space than the model reads.
        FeatureMismatchError: a column or the histories of a key are missing.
    """
    if alignment is not None:
        inputs = artifact.inputs
        alignment.require_target(inputs.space_id, inputs.code_dim, inputs.code_bits)
    decoded = {}
    for key, needed in needed_columns(artifact.config).items():
        table = histories.get(key)
        if table is None:
            raise FeatureMismatchError(f"history key {key[1]} ({key[0]}): the model reads it and none was given")
        artifact.check_space(key, table, alignment.source.space_id if alignment else None)
        columns = token_columns(needed, artifact.inputs, artifact.encoder, alignment)
        decoded[key] = decode_histories(table, np.zeros(table.num_rows, np.int64), columns, key[1])
    slates, part = artifact.config.within_impression, np.zeros(rows.num_rows, np.int64)
    batch = make_batch(with_row_columns(rows), artifact.encoder, part, decoded, slates=slates)
    p = np.zeros(len(batch))
    for index in whole_slates(batch.slate.numpy(), SCORE_BATCH, None):
        p[index.numpy()] = _p(artifact, batch.take(index))
    return p


def with_row_columns(rows: pa.Table) -> pa.Table:
    """Requests as rows of table ``features``: what only training and metrics read is null."""
    for name in ROW_COLUMNS:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.int64()))
    return rows


@torch.no_grad()
def _p(artifact: VmArtifact, batch: VmBatch) -> Floats:
    model = artifact.model.eval()
    p: Floats = model(batch.to(model.bias.device)).double().sigmoid().cpu().numpy()
    return p


def score_batch(artifact: VmArtifact, batch: VmBatch) -> Scores:
    """Scores of one batch."""
    return Scores(
        example_id=batch.example_id.numpy(),
        user=batch.user.numpy(),
        impression_id=batch.impression_id.numpy(),
        has_impression=batch.has_impression.numpy(),
        event_ts=batch.event_ts.numpy(),
        label=_doubles(batch.label),
        weight=_doubles(batch.weight),
        sampling_rate=_doubles(batch.sampling_rate),
        p=_p(artifact, batch),
        has_history={f"{key[0]}_{key[1]}": (h.lengths(None) > 0).numpy() for key, h in batch.histories.items()},
    )


def _doubles(values: Tensor) -> npt.NDArray[np.float64]:
    return values.double().numpy()


def join_scores(parts: list[Scores]) -> Scores:
    """Scores of several batches as one; no batches give no rows."""
    if not parts:
        ints, doubles = np.zeros(0, np.int64), np.zeros(0)
        return Scores(ints, ints, ints, np.zeros(0, bool), ints, doubles, doubles, doubles, doubles)
    names = [name for name in vars(parts[0]) if name != "has_history"]
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    keys = parts[0].has_history
    return Scores(**arrays, has_history={key: np.concatenate([p.has_history[key] for p in parts]) for key in keys})
