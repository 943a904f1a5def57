"""Calibration in the large: one shift of the logit, after training, on the rows of the validation window."""

from __future__ import annotations

import numpy as np

from models.metrics import P_FLOOR, Floats, Scores

MAX_STEPS = 50
TOLERANCE = 1e-9
NOISE = 2.0
"""A shift of fewer standard errors is left alone: a day's rate wanders by as much from one day to the next."""


def shifted(scores: Scores, shift: float) -> Scores:
    """The same rows with every logit moved by ``shift``."""
    p = np.clip(scores.p, P_FLOOR, 1 - P_FLOOR)
    return scores.with_p(1 / (1 + np.exp(-(np.log(p / (1 - p)) + shift))))


def logit_shift(scores: Scores) -> float:
    """As ``shift_of``, of the rows of ``scores``."""
    return shift_of(scores.label, scores.p, scores.weight)


def shift_of(label: Floats, p: Floats, weight: Floats) -> float:
    """What to add to every logit so that sum(weight * p) = sum(weight * label), all [N].

    0 where the rows hold one class alone, or cannot tell the shift from their own noise (``NOISE`` standard errors).

    One parameter: it moves neither the order of rows nor AUC, gAUC and iAUC. Found by Newton's method on the log loss,
    which is convex in it; a step is at most 1, so that chances near 0 and 1 cannot throw it off.
    """
    wanted = float(np.sum(weight * label))
    if not 0 < wanted < float(np.sum(weight)):
        return 0.0
    p = np.clip(p, 1e-12, 1 - 1e-12)
    logit, shift, slope = np.log(p / (1 - p)), 0.0, 0.0
    for _ in range(MAX_STEPS):
        p = 1 / (1 + np.exp(-(logit + shift)))
        slope = float(np.sum(weight * p * (1 - p)))
        step = (wanted - float(np.sum(weight * p))) / max(slope, 1e-12)
        shift += min(max(step, -1.0), 1.0)
        if abs(step) < TOLERANCE:
            break
    error = float(np.sqrt(np.sum(weight**2 * p * (1 - p)))) / max(slope, 1e-12)
    return shift if abs(shift) > NOISE * error else 0.0
