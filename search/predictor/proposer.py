"""Predictor-guided search (Yin et al., arXiv 2311.07870): fit predictors, let a policy find what they like, try it.

Each round fits the ensemble on all finished trials, trains a policy by REINFORCE on the predictors alone, and takes the
best configurations that the policy drew on its way; their real results go into the next round's fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from search.errors import SpaceError
from search.parameters import Floats
from search.predictor.ensemble import EnsembleSettings, RankEnsemble
from search.predictor.labels import labels
from search.predictor.policy import Choices, FactorisedPolicy, PolicySettings
from search.proposer import HistoryProposer, check_ask, new_configs
from search.space import Config, SearchSpace, config_key
from search.trial import Trial, done

WORST = 3.0
"""Score of a configuration that the rules forbid, in deviations of the trials' scores."""


@dataclass(frozen=True)
class PredictorSettings:
    """Of one search.

    ``first``: random trials before the first fit, at most half of a search. ``batch``: trials between two fits. Both
    grow to a multiple of the trials that run at once.
    ``flops_weight``: a of the reward -(1 - a) * NE - a * FLOPs. ``first_share``: of a whole training that the first
    trials get, where the objective can stop one; their labels are then trends. ``explore``: share of each round, its
    end, that is drawn at random.
    """

    first: int = 20
    batch: int = 10
    flops_weight: float = 0.0
    first_share: float = 1.0
    explore: float = 0.1
    ensemble: EnsembleSettings = field(default_factory=EnsembleSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)


class PredictorSearch(HistoryProposer):
    """The method as a proposer.

    Args:
        space: any space with decisions.
        seed: of all random choices.
        settings: of the search.

    Raises:
        SpaceError: ``settings.flops_weight`` or ``settings.first_share`` is no share.
    """

    def __init__(self, space: SearchSpace, seed: int = 0, settings: PredictorSettings | None = None) -> None:
        super().__init__(space, seed)
        self.settings = settings or PredictorSettings()
        if not 0 <= self.settings.flops_weight <= 1:
            raise SpaceError(f"flops_weight: got {self.settings.flops_weight}; allowed: 0 to 1")
        if not 0 < self.settings.first_share <= 1:
            raise SpaceError(f"first_share: got {self.settings.first_share}; allowed: above 0, at most 1")
        self._round: tuple[int, list[Config]] | None = None

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """See ``Proposer.ask``."""
        check_ask(self.space, history, budget_left, k)
        seen = _trained(history)
        rng = np.random.default_rng([self.seed, len(history)])
        first = _multiple(self._first(len(history) + budget_left), k)
        if len(history) < first:
            return new_configs(self.space, rng, k, seen)
        # A round holds whole batches, so that each fit knows every trial before it.
        length = _multiple(self.settings.batch, k)
        place = (len(history) - first) % length
        known = history[: len(history) - place]
        if len(done(known)) < 2:
            return new_configs(self.space, rng, k, seen)
        guided = min(k, max(0, length - round(self.settings.explore * length) - place))
        configs = [config for config in self._ranked(known) if config_key(config) not in seen][:guided]
        seen |= {config_key(config) for config in configs}
        return configs + new_configs(self.space, rng, k - len(configs), seen)

    def share(self, trial_id: int, budget: int) -> float:
        """See ``Shortening.share``."""
        return self.settings.first_share if trial_id < self._first(budget) else 1.0

    def _first(self, budget: int) -> int:
        return min(self.settings.first, budget // 2)

    def _ranked(self, known: Sequence[Trial]) -> list[Config]:
        """What the round that starts after ``known`` likes, in order; kept for the round's other trials."""
        if self._round is None or self._round[0] != len(known):
            self._round = (len(known), self.search_round(known, np.random.default_rng([self.seed, len(known), 1])))
        return self._round[1]

    def search_round(self, known: Sequence[Trial], rng: np.random.Generator) -> list[Config]:
        """Configurations that the predictors like, the best first; those tried already may be among them."""
        judge = _Judge(self.space, self.fit(known, rng), self.settings.flops_weight)
        FactorisedPolicy(self.space.factors, self.settings.policy).train(judge.rewards, rng)
        return judge.best()

    def fit(self, known: Sequence[Trial], rng: np.random.Generator) -> RankEnsemble:
        """Predictors of the finished trials."""
        trials = done(known)
        targets = np.stack([labels(trials), [trial.flops or 0.0 for trial in trials]], axis=1)
        x = self.space.encode_all([trial.config for trial in trials])
        return RankEnsemble(x, targets, int(rng.integers(2**31)), self.settings.ensemble)


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of


def _trained(trials: Sequence[Trial]) -> set[str]:
    """Keys of what is not proposed again; a training that was stopped may still be worth its end."""
    return {config_key(trial.config) for trial in trials if trial.horizon is None}


class _Judge:
    """Rewards from the predictors only, each distinct configuration scored once."""

    def __init__(self, space: SearchSpace, ensemble: RankEnsemble, flops_weight: float) -> None:
        self.space, self.ensemble, self.flops_weight = space, ensemble, flops_weight
        self.scores: dict[str, tuple[float, Config]] = {}
        self._of_choices: dict[bytes, float] = {}

    def rewards(self, choices: Choices) -> Floats:
        """Decisions [B, F] -> [B]."""
        rows = {row.tobytes(): row for row in choices}
        new = {key: self.space.assemble(row.tolist()) for key, row in rows.items() if key not in self._of_choices}
        valid = {key: config for key, config in new.items() if self.space.allows(config)}
        self._of_choices |= dict.fromkeys(new, -WORST)
        if valid:
            scores = self.ensemble.predict(self.space.encode_all(list(valid.values())))
            weights = np.array([1 - self.flops_weight, self.flops_weight])
            for (key, config), reward in zip(valid.items(), -(scores @ weights), strict=True):
                self._of_choices[key] = float(reward)
                self.scores[config_key(config)] = (float(reward), config)
        return np.array([self._of_choices[row.tobytes()] for row in choices])

    def best(self) -> list[Config]:
        """Every configuration drawn, the highest reward first."""
        return [config for _, config in sorted(self.scores.values(), key=lambda scored: -scored[0])]
