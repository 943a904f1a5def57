"""Proposers that believe in a Gaussian process: initial random points, then what a decider chooses.

Shape legend: W encoded width of the space, K configurations asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from search.proposer import check_ask, generator, new_configs
from search.space import Config, SearchSpace, config_key
from search.surrogate import Belief, fit
from search.trial import Trial, done, value

TRIES = 64
"""Points about a proposal that are tried where its own configuration is known or not allowed."""


class Decider(Protocol):
    """A method on the unit cube, free of what its coordinates mean."""

    def decide(self, belief: Belief, left: int, k: int, seed: int, observed: float | None) -> Tensor:
        """Points [K, W] to evaluate next.

        Args:
            left: evaluations left, these included.
            observed: what the last decision's first point gave, in the belief's units; None where it is not known.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the next decision depends on besides its arguments: plain JSON data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``'s answer."""
        ...


class GpSearch:
    """A decider on a search space; NE is minimised. Failed trials are not modelled, nor proposed again.

    Args:
        initial: done trials before the model takes over; when absent twice the number of parameters, at most half of
            the search.
    """

    def __init__(self, space: SearchSpace, decider: Decider, seed: int = 0, initial: int | None = None) -> None:
        self.space, self.decider, self.seed = space, decider, seed
        self.initial = initial
        self._decided: int | None = None

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """See ``Proposer.ask``."""
        check_ask(self.space, history, budget_left, k)
        rng = generator(self.seed, history)
        seen = {config_key(trial.config) for trial in history}
        known = done(history)
        initial = self._initial(len(history) + budget_left)
        if len(known) < initial:
            return new_configs(self.space, rng, min(k, initial - len(known)), seen)
        belief = fit(
            torch.from_numpy(self.space.encode_all([trial.config for trial in known])),
            -torch.tensor([value(trial) for trial in known], dtype=torch.float64),
        )
        points = self.decider.decide(belief, budget_left, k, int(rng.integers(2**31)), self._observed(belief, history))
        self._decided = len(history)
        return [self._nearest_new(point.numpy(), seen, rng) for point in points]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Nothing to keep: the next ``ask`` is given the history."""

    def state_dict(self) -> dict[str, Any]:
        """The decider's state, and which trial its last decision became."""
        return {"decided": self._decided, "decider": self.decider.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``'s answer."""
        self._decided = state["decided"]
        self.decider.load_state_dict(state["decider"])

    def _initial(self, budget: int) -> int:
        wanted = min(2 * len(self.space.parameters), budget // 2) if self.initial is None else self.initial
        return max(wanted, 1)

    def _observed(self, belief: Belief, history: Sequence[Trial]) -> float | None:
        for trial in history:
            if trial.id == self._decided and trial.state == "done":
                return (-value(trial) - belief.center) / belief.scale
        return None

    def _nearest_new(self, point: np.ndarray, seen: set[str], rng: np.random.Generator) -> Config:
        """The configuration at ``point`` [W], or one at a growing distance that is allowed and not in ``seen``."""
        for distance in np.linspace(0.0, 1.0, TRIES):
            config = self.space.decode(point + distance * rng.uniform(-1, 1, len(point)))
            if config_key(config) not in seen and self.space.allows(config):
                seen.add(config_key(config))
                return config
        return new_configs(self.space, rng, 1, seen)[0]
