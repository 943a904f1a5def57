"""Peers of the search methods behind the same contract: Optuna's TPE and Ax (BoTorch)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import optuna

from search.errors import SpaceError
from search.parameters import Categorical
from search.proposer import check_ask
from search.space import Config, SearchSpace
from search.trial import Trial, value

AX_INITIAL = 20
"""As many random trials as the other methods begin with."""


def _choices(space: SearchSpace) -> dict[str, tuple[Any, ...]]:
    if not all(isinstance(parameter, Categorical) for parameter in space.parameters):
        raise SpaceError("this peer is wired for categorical parameters only")
    return {parameter.name: parameter.choices for parameter in space.parameters if isinstance(parameter, Categorical)}


class _Peer:
    """Keeps its own study; the history is only checked. Such a search is not resumable."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the study lives in memory."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take."""


class TpeSearch(_Peer):
    """Optuna's tree-structured Parzen estimator, its defaults."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__(space)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.CategoricalDistribution(choices) for name, choices in _choices(space).items()
        }
        self.asked: list[optuna.trial.Trial] = []

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """See ``Proposer.ask``."""
        check_ask(self.space, history, budget_left, k)
        self.asked = [self.study.ask(self.distributions) for _ in range(k)]
        return [dict(trial.params) for trial in self.asked]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Results of the last ``ask``."""
        for asked, trial in zip(self.asked, trials, strict=True):
            self.study.tell(asked, value(trial))


class AxSearch(_Peer):
    """Ax's Gaussian process on mixed spaces (BoTorch) after ``AX_INITIAL`` quasi-random points.

    It is named because Ax's own choice for so many unordered choices is quasi-random points alone.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__(space)
        # Seconds to import: only where Ax is asked for.
        from ax.adapter.registry import Generators
        from ax.service.ax_client import AxClient, ObjectiveProperties

        logging.getLogger("ax").setLevel(logging.ERROR)
        self.client = AxClient(random_seed=seed, verbose_logging=False)
        parameters: list[dict[str, Any]] = [
            {
                "name": name,
                "type": "choice",
                "values": list(choices),
                "is_ordered": False,
                "sort_values": False,
                "value_type": "str",
            }
            for name, choices in _choices(space).items()
        ]
        strategy: dict[str, Any] = {
            "suggested_model_override": Generators.BO_MIXED,
            "num_initialization_trials": AX_INITIAL,
            "should_deduplicate": True,
        }
        self.client.create_experiment(
            parameters=parameters,
            objectives={"ne": ObjectiveProperties(minimize=True)},
            choose_generation_strategy_kwargs=strategy,
        )
        self.asked: list[int] = []

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """See ``Proposer.ask``."""
        check_ask(self.space, history, budget_left, k)
        given = [self.client.get_next_trial() for _ in range(k)]
        self.asked = [index for _, index in given]
        return [dict(config) for config, _ in given]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Results of the last ``ask``."""
        for index, trial in zip(self.asked, trials, strict=True):
            self.client.complete_trial(index, raw_data={"ne": (value(trial), 0.0)})
