"""One-shot multi-step trees as a search method (Jiang et al., NeurIPS 2020, arXiv 2006.15779)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from search.errors import BudgetError
from search.gp_search import GpSearch
from search.maximise import DEFAULT_EFFORT, Effort
from search.multi_step.plan import Plan, make_plan
from search.multi_step.tree import eno, k_path, k_step
from search.space import SearchSpace
from search.surrogate import Belief

Kind = Literal["step", "path", "eno"]
"""Full tree, one outcome a stage, or one step and then a batch."""
SHAPES = {"step": k_step, "path": k_path, "eno": eno}


class MultiStep:
    """Decides by the best tree of ``k`` steps, or of as many as are left.

    Raises:
        BudgetError: ``k`` is below 1.
    """

    def __init__(self, kind: Kind, k: int, effort: Effort = DEFAULT_EFFORT) -> None:
        if k < 1:
            raise BudgetError(f"a look-ahead of k={k} steps; allowed: at least 1")
        self.kind, self.k, self.effort = kind, k, effort
        self.last: Plan | None = None

    def decide(self, belief: Belief, left: int, k: int, seed: int, observed: float | None) -> Tensor:
        """See ``Decider.decide``. Parallel points are chosen one after the other, each as if it gave its mean."""
        chosen: list[Tensor] = []
        warm = None if self.last is None or observed is None else (self.last, observed)
        for place in range(k):
            plan = make_plan(belief, SHAPES[self.kind](min(self.k, left - place)), seed + place, self.effort, warm)
            chosen.append(plan.first)
            if place == 0:
                self.last = plan
            if place < k - 1:
                mean = belief.marginals(plan.first[None, None])[0]
                belief, warm = belief.with_values(plan.first[None], mean[0]), (plan, float(mean))
        return torch.stack(chosen)

    def state_dict(self) -> dict[str, Any]:
        """The last tree."""
        return {"last": None if self.last is None else self.last.to_json()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``'s answer."""
        self.last = None if state["last"] is None else Plan.from_json(state["last"])


class MultiStepSearch(GpSearch):
    """Trees of ``k`` steps on a search space: 2-path and ENO for whole searches, full trees for the last few trials."""

    def __init__(
        self, space: SearchSpace, seed: int = 0, kind: Kind = "eno", k: int = 12, initial: int | None = None
    ) -> None:
        super().__init__(space, MultiStep(kind, k), seed, initial)
