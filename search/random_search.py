"""Random search: the yardstick of every other method."""

from __future__ import annotations

from collections.abc import Sequence

from search.proposer import HistoryProposer, check_ask, generator, new_configs
from search.space import Config, config_key
from search.trial import Trial


class RandomSearch(HistoryProposer):
    """Configurations at random, no one twice while the space has others."""

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """See ``Proposer.ask``."""
        check_ask(self.space, history, budget_left, k)
        seen = {config_key(trial.config) for trial in history}
        return new_configs(self.space, generator(self.seed, history), k, seen)
