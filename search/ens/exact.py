"""The optimal policy of active search by dynamic programming, for pools so small that it can be had (tests, proofs)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from search.ens.errors import PoolError
from search.ens.knn import KnnModel

LARGEST = 8
Policy = Callable[[KnnModel, int], int]
"""(model, queries left, the next one included) -> the point to query."""


def optimal_value(model: KnnModel, queries: int) -> float:
    """Expected positives that the best policy finds in ``queries`` queries.

    Raises:
        PoolError: the pool holds more than ``LARGEST`` points: the states are 3 to the power of their number.
    """
    _check(model)
    return _value(model, queries, {}, lambda model, left: np.flatnonzero(model.open).tolist())


def policy_value(model: KnnModel, queries: int, policy: Policy) -> float:
    """Expected positives, under the model's own belief, that ``policy`` finds in ``queries`` queries.

    Raises:
        PoolError: as ``optimal_value``.
    """
    _check(model)
    return _value(model, queries, {}, lambda model, left: [policy(model, left)])


def _value(
    model: KnnModel, left: int, known: dict[bytes, float], choices: Callable[[KnnModel, int], list[int]]
) -> float:
    if left <= 0 or not model.open.any():
        return 0.0
    # The labels tell how many queries are left, too.
    state = model.labels.tobytes()
    if state not in known:
        known[state] = max(_query(model, index, left, known, choices) for index in choices(model, left))
    return known[state]


def _query(
    model: KnnModel,
    index: int,
    left: int,
    known: dict[bytes, float],
    choices: Callable[[KnnModel, int], list[int]],
) -> float:
    chance = float(model.p[index])
    later = []
    for label in (1, 0):
        after = model.copy()
        after.observe(index, label)
        later.append(_value(after, left - 1, known, choices))
    return chance * (1 + later[0]) + (1 - chance) * later[1]


def _check(model: KnnModel) -> None:
    if len(model) > LARGEST:
        raise PoolError(f"exact search of {len(model)} points: at most {LARGEST}")
