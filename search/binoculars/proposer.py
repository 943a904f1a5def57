"""BINOCULARS for Bayesian optimisation (Jiang et al., ICML 2020): one point of the best batch of all that is left.

A batch that is optimal for the remaining budget serves as a plan; its member of the largest immediate improvement is
evaluated, and the plan is made anew. With one evaluation left the batch is a point and the method is expected
improvement, exactly.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from search.gp_search import GpSearch
from search.improvement import normal_draws
from search.maximise import DEFAULT_EFFORT, Candidates, Effort, log_ei_at, maximise
from search.multi_step.tree import TreeShape, TreeValue
from search.space import SearchSpace
from search.surrogate import Belief

Choice = Literal["best", "sampled"]
"""Which member of the batch is evaluated: the one of the largest EI, or one drawn in proportion to EI."""


class Binoculars:
    """Decides by the best batch of all evaluations that are left."""

    def __init__(self, choice: Choice = "best", effort: Effort = DEFAULT_EFFORT) -> None:
        self.choice, self.effort = choice, effort

    def decide(self, belief: Belief, left: int, k: int, seed: int, observed: float | None) -> Tensor:
        """See ``Decider.decide``. Parallel points are different members of one batch."""
        batch = best_batch(belief, left, seed, self.effort)
        scores = log_ei_at(belief, batch[None])[0]
        if self.choice == "best":
            return batch[scores.topk(k).indices]
        generator = torch.Generator().manual_seed(seed)
        return batch[torch.multinomial(torch.softmax(scores, 0), k, generator=generator)]

    def state_dict(self) -> dict[str, Any]:
        """Empty: every batch is made anew."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take."""


def best_batch(belief: Belief, size: int, seed: int, effort: Effort) -> Tensor:
    """The batch [size, D] of the largest expected improvement (qEI), in the unit cube."""
    candidates = Candidates(belief, max(effort.candidates, 2 * size), seed)
    scores = log_ei_at(belief, candidates.points[None])
    if size == 1:
        places = candidates.choose(scores, effort.restarts).T
    else:
        places = candidates.choose(scores.repeat(effort.restarts, 1), size)
    normals = normal_draws(effort.draws, size, seed) if size > 1 else None
    # A batch is a tree of one stage.
    points, values = maximise(TreeValue(belief, TreeShape((), size), normals), candidates.points[places], effort.steps)
    return points[int(values.argmax())]


class BinocularsSearch(GpSearch):
    """BINOCULARS on a search space."""

    def __init__(self, space: SearchSpace, seed: int = 0, choice: Choice = "best", initial: int | None = None) -> None:
        super().__init__(space, Binoculars(choice), seed, initial)
