"""What was shown together at one instant: the slate that a request's candidates form.

Shape legend: N rows, B examples, R width of all reads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]


def slate_codes(impression_id: Ints, has_impression: npt.NDArray[np.bool_], event_ts: Ints) -> Ints:
    """A number for each of N rows, equal where impression and instant are, and counted up from 0.

    Rows of an impression that came at another instant were not known at the request, or past. A row without an
    impression is a slate of its own.
    """
    if not len(event_ts):
        return np.zeros(0, np.int64)
    alone = np.where(has_impression, -1, np.arange(len(event_ts)))
    columns = (event_ts, np.where(has_impression, impression_id, 0), alone)
    order = np.lexsort(columns)
    starts = np.zeros(len(order), bool)
    for column in columns:
        starts[1:] |= np.diff(column[order]) != 0
    codes = np.empty(len(order), np.int64)
    codes[order] = np.cumsum(starts)
    return codes


def whole_slates(slate: Ints, batch_size: int, rng: np.random.Generator | None) -> Iterator[Tensor]:
    """Rows of N in batches that split no slate: int64 [<= batch_size], more where one slate holds more.

    Args:
        slate: code of each row [N].
        batch_size: of a batch.
        rng: draws the order of the slates; without it they come as their first rows do.
    """
    if not len(slate):
        return
    _, first, place, counts = np.unique(slate, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first) if rng is None else rng.permutation(len(first))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    rows = torch.from_numpy(np.argsort(rank[place], kind="stable"))
    ends, start = np.cumsum(counts[order]), 0
    while start < len(slate):
        last = max(
            np.searchsorted(ends, start + batch_size, side="right") - 1, np.searchsorted(ends, start, side="right")
        )
        yield rows[start : ends[last]]
        start = int(ends[last])


def less_slate_mean(values: Tensor, slate: Tensor) -> Tensor:
    """Each row's values less their mean over its slate: [B, R], codes [B] -> [B, R]."""
    _, place, counts = torch.unique(slate, return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(counts), values.shape[1]).index_add(0, place, values)
    return values - (sums / counts[:, None].to(values.dtype)).index_select(0, place)
