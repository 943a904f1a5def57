"""Regularised evolution (Real et al., arXiv 1802.01548, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.proposer import HistoryProposer, check_ask, generator, new_configs
from search.space import Config, SearchSpace, config_key
from search.trial import Trial, done, value

TRIES = 100


class RegularizedEvolution(HistoryProposer):
    """The newest ``population`` done trials live; the best of a random ``tournament`` of them is mutated.

    Args:
        space: to search.
        seed: of all random choices.
        population: trials alive; as many random ones come first.
        tournament: trials drawn for one choice of a parent.
    """

    def __init__(self, space: SearchSpace, seed: int = 0, population: int = 20, tournament: int = 5) -> None:
        super().__init__(space, seed)
        self.population, self.tournament = population, tournament

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """See ``Proposer.ask``."""
        check_ask(self.space, history, budget_left, k)
        rng = generator(self.seed, history)
        seen = {config_key(trial.config) for trial in history}
        alive = done(history)[-self.population :]
        if len(alive) < self.population:
            return new_configs(self.space, rng, k, seen)
        return [self._child(alive, rng, seen) for _ in range(k)]

    def _child(self, alive: list[Trial], rng: np.random.Generator, seen: set[str]) -> Config:
        """A mutated parent that was not tried before, as long as ``TRIES`` mutations find one."""
        for _ in range(TRIES):
            drawn = rng.choice(len(alive), min(self.tournament, len(alive)), replace=False)
            parent = min((alive[int(i)] for i in drawn), key=value)
            config = self.space.mutate(parent.config, rng)
            if config_key(config) not in seen:
                break
        seen.add(config_key(config))
        return config
