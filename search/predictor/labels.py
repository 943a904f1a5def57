"""Labels of trials from their learning curves (arXiv 2311.07870): a short training tells the NE of a long one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.parameters import Floats
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


def labels(trials: Sequence[Trial]) -> Floats:
    """What the predictor learns of done trials [N]: NE where a training came to its end, its curve's trend elsewhere.

    A line through a curve that flattens ends too low, which would set all short trials before the others. Whole curves
    tell by how much: the mean of NE minus the trend of their own beginnings is added to every trend.
    """
    horizon = max((trial.horizon or 0 for trial in trials), default=0)
    seen = max((len(trial.curve) for trial in trials if trial.horizon), default=0)
    if not seen:
        return np.array([value(trial) for trial in trials])
    whole = [trial for trial in trials if not trial.horizon and len(trial.curve) > seen]
    above = [value(trial) - trend_label(trial.curve[:seen], horizon) for trial in whole]
    correction = float(np.mean(above)) if above else 0.0
    return np.array([_trend(trial) + correction if trial.horizon else value(trial) for trial in trials])


def _trend(trial: Trial) -> float:
    return trend_label(trial.curve, trial.horizon) if trial.horizon and trial.curve else value(trial)
