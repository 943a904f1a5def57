"""The weight of distillation, chosen on validation: distillation hurts where the student is near its teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.errors import ModelConfigError
from models.vm_train import VmTrainResult


@dataclass(frozen=True)
class KdChoice:
    """The best of several trainings that differ in the weight alone; ``validation_ne`` holds the NE of each weight."""

    weight: float
    result: VmTrainResult
    validation_ne: dict[float, float]


def choose_kd_weight(weights: list[float], fit: Callable[[float], VmTrainResult]) -> KdChoice:
    """Train with each weight and keep the lowest validation NE; of equal ones the smaller weight.

    Args:
        weights: weights to try, at least one.
        fit: trains with a weight; everything else must be as for the others, the seed included.

    Raises:
        ModelConfigError: ``weights`` is empty.
    """
    if not weights:
        raise ModelConfigError("kd_weights: got none; allowed: at least one weight")
    results = {weight: fit(weight) for weight in sorted(set(weights))}
    best = min(results, key=lambda weight: (results[weight].metrics["ne"], weight))
    return KdChoice(best, results[best], {weight: result.metrics["ne"] for weight, result in results.items()})
