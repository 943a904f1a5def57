"""What every search method is: it is asked for configurations and told their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from search.errors import BudgetError
from search.space import Config, SearchSpace, config_key
from search.trial import Trial


class Proposer(Protocol):
    """A search method on one space; lower ``ne`` is better.

    What is proposed depends on the constructor's arguments, ``history`` and ``state_dict`` alone, so that a search
    killed at any instant goes on with the same proposals. Random numbers come from ``generator(seed, history)``.
    """

    space: SearchSpace

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """Configurations to evaluate next.

        Args:
            history: every trial so far, failed ones included, by id.
            budget_left: trials left, those asked for included.
            k: configurations wanted, evaluated in parallel; at most ``budget_left``.

        Raises:
            BudgetError: nothing is left.
            HistoryError: a trial of ``history`` is of another space.
        """
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the results of what ``ask`` gave last, by id; failed ones included."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Whatever the next ``ask`` depends on besides the history: plain JSON data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``'s answer."""
        ...


@runtime_checkable
class Shortening(Protocol):
    """A proposer that wants some trials stopped before their end: their curves tell enough."""

    def share(self, trial_id: int, budget: int) -> float:
        """Share (0, 1] of a whole training that a trial gets in a search of ``budget`` trials."""
        ...


class HistoryProposer:
    """Base of methods without state of their own: everything follows from the seed and the history."""

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        self.space, self.seed = space, seed

    def tell(self, trials: Sequence[Trial]) -> None:
        """Nothing to keep: the next ``ask`` is given the history."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take."""


def check_ask(space: SearchSpace, history: Sequence[Trial], budget_left: int, k: int) -> None:
    """What every ``ask`` checks first.

    Raises:
        BudgetError: ``budget_left`` or ``k`` is below 1, or more is wanted than left.
        HistoryError: a trial of ``history`` is of another space.
    """
    if not 1 <= k <= budget_left:
        raise BudgetError(f"asked for k={k} configurations with {budget_left} trials left; allowed: 1 <= k <= left")
    space.check_history(history)


def generator(seed: int, history: Sequence[Trial]) -> np.random.Generator:
    """Random numbers of one ``ask``: the same ones whenever it is asked again after the same number of trials."""
    return np.random.default_rng([seed, len(history)])


def new_configs(space: SearchSpace, rng: np.random.Generator, k: int, seen: set[str], tries: int = 100) -> list[Config]:
    """``k`` random configurations, none of them in ``seen`` (keys) as long as ``tries`` draws each find a new one."""
    configs: list[Config] = []
    for _ in range(k):
        for _ in range(tries):
            config = space.sample(rng)
            if config_key(config) not in seen:
                break
        seen.add(config_key(config))
        configs.append(config)
    return configs
