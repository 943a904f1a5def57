"""Labels of the near future: what an FM whose output is read an hour or a day later had better know."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def future_rates(
    keys: Ints, event_ts: Ints, labels: Floats, known: Bools, weight: Floats, window_ms: int
) -> tuple[Floats, Bools]:
    """Label rate of each row's key over (event_ts, event_ts + window], by head.

    The row itself and rows of its own instant do not count; neither do labels that are not known. Rows are weighted.

    Args:
        keys: ids that make a key together [N, E].
        event_ts: instants in ms [N].
        labels: 0 or 1 [N, H].
        known: which labels are known [N, H].
        weight: effective weights [N].
        window_ms: length of the window.

    Returns:
        Rates [N, H] (0 where there is none), and where the window holds a known label [N, H].
    """
    _, code = np.unique(keys, axis=0, return_inverse=True)
    start = event_ts - event_ts.min(initial=0)
    place = code.reshape(-1).astype(np.int64) * (int(start.max(initial=0)) + window_ms + 1) + start
    order = np.argsort(place, kind="stable")
    first, last = (np.searchsorted(place[order], place + shift, side="right") for shift in (0, window_ms))
    counted = np.where(known, weight[:, None], 0.0).astype(np.float64)[order]
    positive, total = (_sums(values)[last] - _sums(values)[first] for values in (counted * labels[order], counted))
    seen = total > 0
    rates = np.divide(positive, total, out=np.zeros_like(positive), where=seen)
    return rates.clip(0, 1).astype(np.float32), seen


def _sums(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums of the first 0 .. N rows: [N + 1, H]."""
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
