"""Active search as a search method: as many acceptable configurations as the budget allows, not the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.ens.batch import sequential_simulation
from search.ens.errors import PoolError
from search.ens.knn import DEFAULT_PRIOR, KnnModel, knn_weights
from search.proposer import HistoryProposer, check_ask, generator, new_configs
from search.space import Config, SearchSpace, config_key
from search.trial import Trial, value

POOL = 2_000
NEIGHBOURS = 20


@dataclass(frozen=True)
class Acceptable:
    """A trial counts when its NE is at most ``ne`` and its FLOPs at most ``flops``."""

    ne: float
    flops: float = math.inf

    def __call__(self, trial: Trial) -> bool:
        """Whether ``trial`` is done and within both limits."""
        return trial.state == "done" and value(trial) <= self.ne and (trial.flops or 0.0) <= self.flops


class ActiveSearch(HistoryProposer):
    """ENS over a random pool of a space; neighbours are the nearest encodings. A failed trial is a negative.

    Args:
        acceptable: which trials are wanted.
        pool: configurations drawn; what the history holds beyond them joins the pool.
        neighbours: of each configuration in the model.

    Raises:
        PoolError: the space gives too few different configurations for so many neighbours.
    """

    def __init__(
        self,
        space: SearchSpace,
        acceptable: Acceptable,
        seed: int = 0,
        pool: int = POOL,
        neighbours: int = NEIGHBOURS,
        prior: tuple[float, float] = DEFAULT_PRIOR,
    ) -> None:
        super().__init__(space, seed)
        self.acceptable, self.neighbours, self.prior = acceptable, neighbours, prior
        self.pool = _drawn(space, np.random.default_rng([seed, pool]), pool)
        if len(self.pool) <= neighbours:
            raise PoolError(
                f"the space gave {len(self.pool)} different configurations for {neighbours} neighbours each: "
                "lower neighbours"
            )

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """See ``Proposer.ask``. Parallel trials are the batch of a pessimistic sequential simulation.

        Raises:
            PoolError: fewer than ``k`` configurations of the pool are left.
        """
        check_ask(self.space, history, budget_left, k)
        pool = {**self.pool, **{config_key(trial.config): trial.config for trial in history}}
        model = self._model(pool, history)
        rng = generator(self.seed, history)
        if not model.found:
            # Without a positive all points are alike to the model: the first picks would be neighbours by number.
            unknown = np.flatnonzero(model.open)
            if len(unknown) < k:
                raise PoolError(f"{len(unknown)} configurations of the pool are left; asked for {k}")
            chosen = rng.choice(unknown, size=k, replace=False).tolist()
        else:
            chosen = sequential_simulation(model, k, budget_left - k)
        configs = list(pool.values())
        return [configs[index] for index in chosen]

    def _model(self, pool: dict[str, Config], history: Sequence[Trial]) -> KnnModel:
        model = KnnModel(knn_weights(self.space.encode_all(list(pool.values())), self.neighbours), self.prior)
        places = {key: place for place, key in enumerate(pool)}
        labels: dict[int, int] = {}
        for trial in history:
            place = places[config_key(trial.config)]
            labels[place] = max(labels.get(place, 0), int(self.acceptable(trial)))
        for place, label in labels.items():
            model.observe(place, label)
        return model


def _drawn(space: SearchSpace, rng: np.random.Generator, count: int) -> dict[str, Config]:
    """Up to ``count`` different configurations by their keys; fewer where random ones bring nothing new."""
    pool: dict[str, Config] = {}
    seen: set[str] = set()
    while len(pool) < count:
        config = new_configs(space, rng, 1, seen)[0]
        if config_key(config) in pool:
            break
        pool[config_key(config)] = config
    return pool
