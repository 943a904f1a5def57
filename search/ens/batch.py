"""Batches of queries whose labels come back together (Jiang et al., NeurIPS 2018, arXiv 1811.08871)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from search.ens.errors import PoolError
from search.ens.knn import KnnModel
from search.ens.lookahead import Lookahead, best_of, pick

Oracle = Literal["pessimistic", "most_likely", "sampled"]
"""Which label a simulated query gets: always negative, the likelier one, or one drawn from the posterior."""


def greedy_myopic(model: KnnModel, size: int) -> list[int]:
    """The ``size`` open points of the largest posteriors, the smallest index first among equals."""
    _check(model, size)
    chances = np.where(model.open, model.p, -np.inf)
    return [int(index) for index in np.argsort(-chances, kind="stable")[:size]]


def sequential_simulation(
    model: KnnModel, size: int, remaining: int, oracle: Oracle = "pessimistic", rng: np.random.Generator | None = None
) -> list[int]:
    """A batch that the sequential look-ahead would query if a fictional oracle answered.

    Args:
        remaining: queries that follow this batch. The simulated ones count as followers of those before them.
        oracle: ``pessimistic`` spreads the batch, for a negative speaks against its neighbours.
        rng: needed by the sampled oracle alone.

    Raises:
        PoolError: fewer than ``size`` points are open.
    """
    _check(model, size)
    simulated = model.copy()
    batch: list[int] = []
    for later in range(size - 1, -1, -1):
        index = pick(simulated, remaining + later).index
        simulated.observe(index, _fictional(float(simulated.p[index]), oracle, rng))
        batch.append(index)
    return batch


def greedy_batch(
    model: KnnModel, size: int, remaining: int, samples: int = 16, rng: np.random.Generator | None = None
) -> list[int]:
    """batch-ENS: grow the batch S by the point that adds most to sum_S p + E_y[S_r(D + (S, y))].

    The labels of S are drawn ``samples`` times from their joint posterior, each draw's next label given its earlier
    ones; what a candidate adds is exact given the draws.

    Raises:
        PoolError: fewer than ``size`` points are open.
    """
    _check(model, size)
    rng = rng or np.random.default_rng(0)
    worlds = [model]
    batch: list[int] = []
    for _ in range(size):
        index = _next_of_batch(model, worlds, remaining)
        batch.append(index)
        if len(batch) < size:
            worlds = [_drawn(world, index, rng) for world in (worlds if len(worlds) > 1 else worlds * samples)]
    return batch


def _next_of_batch(model: KnnModel, worlds: list[KnnModel], remaining: int) -> int:
    if remaining <= 0:
        return int(np.where(worlds[0].open, model.p, -np.inf).argmax())
    aheads = [Lookahead(world, remaining) for world in worlds]
    # A world's own score counts its own posterior of the candidate; the batch counts the one before any draw.
    bounds = np.mean([ahead.bounds() - ahead.model.p for ahead in aheads], axis=0) + model.p

    def score(index: int) -> float:
        later = [ahead.score(index) - float(ahead.model.p[index]) for ahead in aheads]
        return float(model.p[index]) + sum(later) / len(later)

    return best_of(bounds, score).index


def _drawn(world: KnnModel, index: int, rng: np.random.Generator) -> KnnModel:
    twin = world.copy()
    twin.observe(index, int(rng.random() < twin.p[index]))
    return twin


def _fictional(chance: float, oracle: Oracle, rng: np.random.Generator | None) -> int:
    if oracle == "pessimistic":
        return 0
    if oracle == "most_likely":
        return int(chance > 0.5)
    if rng is None:
        raise PoolError("the sampled oracle draws labels: give it a generator (rng)")
    return int(rng.random() < chance)


def _check(model: KnnModel, size: int) -> None:
    available = int(model.open.sum())
    if not 1 <= size <= available:
        raise PoolError(f"a batch of {size} from {available} open points: ask for 1 to {available}")
