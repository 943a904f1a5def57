"""Labels of trials from their learning curves (arXiv 2311.07870): a short training tells the NE of a long one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.trial import Trial, value

TAIL = 0.5
"""Share of a curve, its end, that the trend is fitted on."""


def trend_label(curve: Sequence[float], horizon: int) -> float:
    """NE that a curve reaches at epoch ``horizon``: NE(l) = m * l + c by least squares over its tail.

    A curve never rises to its extrapolation (early stopping keeps the best epoch): m > 0 counts as 0.

    Args:
        curve: NE after epochs 1 .. n.
        horizon: epoch to extrapolate to; a curve that is as long gives its last value.
    """
    if len(curve) >= horizon or len(curve) < 2:
        return curve[-1]
    tail = max(2, round(TAIL * len(curve)))
    epochs = np.arange(len(curve) - tail + 1, len(curve) + 1)
    slope, intercept = np.polyfit(epochs, np.asarray(curve[-tail:]), deg=1)
    return float(slope * horizon + intercept) if slope < 0 else min(curve[-tail:])


def label(trial: Trial, horizon: int | None) -> float:
    """What the predictor learns of a done trial: the trend's NE at ``horizon``, or its NE where that is None."""
    return value(trial) if horizon is None or not trial.curve else trend_label(trial.curve, horizon)
