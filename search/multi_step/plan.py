"""The best tree of a belief: starting points, joint maximisation of every node, and the start from the last tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search.improvement import log_ei, normal_draws
from search.maximise import DEFAULT_EFFORT, Candidates, Effort, log_ei_at, maximise
from search.multi_step.tree import TreeShape, TreeValue, node_weights
from search.surrogate import Belief


@dataclass(frozen=True)
class Plan:
    """A maximised tree: ``points`` [sum of sizes, D], its value, and the outcomes [N_1] that its branches assume.

    Outcomes are in the units of the function, not of the belief that made the plan: the next belief has its own.
    """

    shape: TreeShape
    points: Tensor
    value: float
    outcomes: Tensor

    @property
    def first(self) -> Tensor:
        """The point [D] to evaluate now."""
        return self.points[0]

    def stage(self, number: int) -> Tensor:
        """Points [N_s, Q, D] of one stage."""
        start = sum(self.shape.sizes[:number])
        width = self.shape.leaf if number == self.shape.stages - 1 else 1
        return self.points[start : start + self.shape.sizes[number]].reshape(-1, width, self.points.shape[-1])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "branches": list(self.shape.branches),
            "leaf": self.shape.leaf,
            "points": self.points.tolist(),
            "value": self.value,
            "outcomes": self.outcomes.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """The inverse of ``to_json``."""
        shape = TreeShape(tuple(data["branches"]), data["leaf"])
        points, outcomes = (torch.tensor(data[name], dtype=torch.float64) for name in ("points", "outcomes"))
        return cls(shape, points, data["value"], outcomes)


def make_plan(
    belief: Belief, shape: TreeShape, seed: int, effort: Effort = DEFAULT_EFFORT, last: tuple[Plan, float] | None = None
) -> Plan:
    """Maximise log v over all nodes at once, in the unit cube.

    Args:
        seed: of the starting points and of a batch leaf's draws.
        last: the plan that the newest observation came from, and that observation in the belief's units: its branch
            of the nearest outcome is one of the starts.
    """
    dimensions = belief.points.shape[-1]
    normals = normal_draws(effort.draws, shape.leaf, seed) if shape.leaf > 1 else None
    value = TreeValue(belief, shape, normals)
    starts = Starts(value, effort, seed)
    trees = starts.trees(starts.roots(effort.restarts))
    if last is not None:
        trees = torch.cat([trees, starts.trees(_next_root(belief, *last)[None], last)])
    points, values = maximise(value, trees, effort.steps, node_weights(shape))
    best = int(values.argmax())
    outcomes = value.outcomes_of(points[best, 0]) if shape.branches else torch.zeros(0, dtype=torch.float64)
    outcomes = belief.center + belief.scale * outcomes
    return Plan(shape, points[best].reshape(-1, dimensions), float(values[best].exp()), outcomes)


class Starts:
    """Greedy trees: each node starts at random points that its own posterior expects improvement at."""

    def __init__(self, value: TreeValue, effort: Effort, seed: int) -> None:
        self.value, self.belief = value, value.belief
        self.candidates = Candidates(self.belief, effort.candidates, seed)

    def roots(self, count: int) -> Tensor:
        """[count, D]: the candidate of the largest expected improvement, and others in proportion to theirs."""
        points = self.candidates.points
        return points[self.candidates.choose(log_ei_at(self.belief, points[None]), count)[0]]

    def trees(self, roots: Tensor, last: tuple[Plan, float] | None = None) -> Tensor:
        """Trees [R, sum of sizes, D] from ``roots`` [R, D]; inner stages follow the last plan where one is given."""
        shape = self.value.shape
        stages = [roots[:, None, None]]
        for stage in range(1, shape.stages):
            kept = None if last is None or stage == shape.stages - 1 else _shifted(self.belief, *last, shape, stage)
            if kept is not None:
                stages.append(kept.expand(len(roots), *kept.shape))
            else:
                width = shape.leaf if stage == shape.stages - 1 else 1
                stages.append(self._greedy(stages, width))
        return torch.cat([stage.flatten(1, 2) for stage in stages], 1)

    def _greedy(self, stages: list[Tensor], width: int) -> Tensor:
        """Points [R, N_s, width, D] of the stage after ``stages``, by EI given each node's own path."""
        shape, depth, points = self.value.shape, len(stages), self.candidates.points
        nodes = shape.nodes(depth)
        above = [stage.repeat_interleave(nodes // stage.shape[1], 1) for stage in stages]
        path = torch.cat(above, 2)
        z = self.value.outcomes[:: shape.paths // nodes, :depth]
        mean, covariance = self.belief.posterior(path)
        noise = self.belief.noise * torch.eye(depth, dtype=path.dtype)
        root = torch.linalg.cholesky(covariance + noise)
        cross = torch.linalg.solve_triangular(root, self.belief.covariance(path, points), upper=False)
        outcomes = mean + (root @ z[:, :, None]).squeeze(-1)
        best = outcomes.amax(-1, keepdim=True).clamp_min(self.belief.best)
        base, variance = self.belief.marginals(points[None])
        expected = base[0] + (cross * z[:, :, None]).sum(-2)
        scores = log_ei(expected, variance[0] - cross.square().sum(-2), best)
        chosen = self.candidates.choose(scores.flatten(0, 1), width).reshape(*path.shape[:2], width)
        return points[chosen]


def _next_root(belief: Belief, plan: Plan, observed: float) -> Tensor:
    """The root [D] that the last plan had in mind for what was observed."""
    if plan.shape.stages == 1:
        return plan.first
    options = plan.stage(1)[_branch(belief, plan, observed) * (plan.shape.nodes(1) // max(len(plan.outcomes), 1))]
    return options[int(log_ei_at(belief, options[None])[0].argmax())]


def _shifted(belief: Belief, plan: Plan, observed: float, shape: TreeShape, stage: int) -> Tensor | None:
    """Points [N_s, 1, D] for a stage of the new tree from the last one's next stage, None where it has none such."""
    if stage + 1 >= plan.shape.stages:
        return None
    old = plan.stage(stage + 1)[:, :1]
    subtree = old.reshape(plan.shape.branches[0], -1, 1, old.shape[-1])[_branch(belief, plan, observed)]
    count = shape.nodes(stage)
    places = ((torch.arange(count) + 0.5) * len(subtree) / count).long()
    return subtree[places]


def _branch(belief: Belief, plan: Plan, observed: float) -> int:
    value = belief.center + belief.scale * observed
    return int((plan.outcomes - value).abs().argmin()) if len(plan.outcomes) else 0
