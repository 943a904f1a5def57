"""The value of a decision tree under a Gaussian process (Jiang et al., NeurIPS 2020, arXiv 2006.15779).

v_k(x | D) = v_1(x | D) + E_y[max_x' v_{k-1}(x' | D + (x, y))] with v_1 = EI. The one-shot form gives every node its own
points and maximises the whole tree at once. Outcomes are Gauss-Hermite nodes: with the joint posterior N(m, C) of the
points along one path and L the Cholesky factor of C + noise, the outcomes are m + L z for fixed z, and every later
posterior is a row of L. So one batched factorisation evaluates all paths; no fantasy model is built.

Shape legend: R restarts, P paths from root to leaf, S stages, N_s nodes of stage s, Q points of a leaf, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search.errors import BudgetError
from search.improvement import log_ei, log_qei
from search.surrogate import Belief

STEP_FANTASIES = (10, 5, 3)
"""Outcomes a stage of a full tree; deeper stages have one."""
ENO_FANTASIES = 10


@dataclass(frozen=True)
class TreeShape:
    """``branches``: outcomes after each stage but the last, S - 1 of them; ``leaf``: points of each last node."""

    branches: tuple[int, ...] = ()
    leaf: int = 1

    @property
    def stages(self) -> int:
        """S."""
        return len(self.branches) + 1

    def nodes(self, stage: int) -> int:
        """N_s."""
        return int(np.prod(self.branches[:stage], dtype=int))

    @property
    def paths(self) -> int:
        """P."""
        return self.nodes(self.stages - 1)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Points of each stage, all nodes together."""
        inner = [self.nodes(stage) for stage in range(self.stages - 1)]
        return (*inner, self.paths * self.leaf)


def k_step(k: int) -> TreeShape:
    """The full tree of ``k`` steps: 10, 5, 3 outcomes a stage, then one."""
    fantasies = STEP_FANTASIES + (1,) * k
    return TreeShape(fantasies[: _depth(k) - 1])


def k_path(k: int) -> TreeShape:
    """One outcome a stage, the mean: a path of ``k`` steps."""
    return TreeShape((1,) * (_depth(k) - 1))


def eno(k: int) -> TreeShape:
    """One adaptive step, then a batch of the other ``k`` - 1 points, scored by qEI."""
    return TreeShape((ENO_FANTASIES,), _depth(k) - 1) if k > 1 else k_step(k)


def _depth(k: int) -> int:
    if k < 1:
        raise BudgetError(f"a look-ahead of {k} steps: at least 1 is needed")
    return k


def gauss_hermite(shape: TreeShape) -> tuple[Tensor, Tensor]:
    """Standard normal outcomes z [P, S-1] along each path, and the paths' weights [P], which sum to 1."""
    outcomes, weights = torch.zeros(1, 0, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for count in shape.branches:
        nodes, mass = np.polynomial.hermite_e.hermegauss(count)
        z, w = torch.from_numpy(nodes), torch.from_numpy(mass / mass.sum())
        outcomes = torch.cat([outcomes.repeat_interleave(count, 0), z.repeat(len(outcomes))[:, None]], 1)
        weights = (weights[:, None] * w).reshape(-1)
    return outcomes, weights


def node_weights(shape: TreeShape) -> Tensor:
    """Probability [T] of reaching the node of each point of a tree; T is the sum of sizes."""
    weights = gauss_hermite(shape)[1]
    stages = [weights.reshape(shape.nodes(stage), -1).sum(1) for stage in range(shape.stages)]
    return torch.cat([*stages[:-1], stages[-1].repeat_interleave(shape.leaf)])


class TreeValue:
    """log v of whole trees.

    Args:
        normals: [samples, Q], the draws of a batch leaf; not used where Q is 1.
    """

    def __init__(self, belief: Belief, shape: TreeShape, normals: Tensor | None = None) -> None:
        self.belief, self.shape, self.normals = belief, shape, normals
        self.outcomes, self.weights = gauss_hermite(shape)

    def __call__(self, trees: Tensor) -> Tensor:
        """log v [R] of ``trees`` [R, sum of sizes, D]: points of stage 0, 1, .., nodes in the order of the paths."""
        return torch.logsumexp(torch.cat(self.stage_values(trees), -1), -1)

    def stage_values(self, trees: Tensor) -> list[Tensor]:
        """Each stage's log of weight times expected improvement [R, P]."""
        mean, covariance = self.belief.posterior(self.paths(trees))
        inner = self.shape.stages - 1
        root, cross = self._condition(covariance[..., :inner, :])
        z, log_weight = self.outcomes, self.weights.log()
        best = torch.full(mean.shape[:-1], self.belief.best, dtype=mean.dtype)
        values = []
        for stage in range(inner):
            row = root[..., stage, : stage + 1]
            expected = mean[..., stage] + (row[..., :-1] * z[:, :stage]).sum(-1)
            variance = row[..., -1].square() - self.belief.noise
            values.append(log_ei(expected, variance, best) + log_weight)
            best = torch.maximum(best, expected + row[..., -1] * z[:, stage])
        expected = mean[..., inner:] + (cross * z[:, :, None]).sum(-2)
        left = covariance[..., inner:, inner:] - cross.transpose(-1, -2) @ cross
        if self.shape.leaf == 1:
            leaf = log_ei(expected[..., 0], left[..., 0, 0], best)
        else:
            leaf = log_qei(expected, left, best, self._draws())
        return [*values, leaf + log_weight]

    def paths(self, trees: Tensor) -> Tensor:
        """Points along each path [R, P, S - 1 + Q, D]."""
        parts, start = [], 0
        for stage, size in enumerate(self.shape.sizes):
            points = trees[:, start : start + size]
            width = self.shape.leaf if stage == self.shape.stages - 1 else 1
            nodes = points.reshape(len(trees), -1, width, trees.shape[-1])
            parts.append(nodes.repeat_interleave(self.shape.paths // nodes.shape[1], 1))
            start += size
        return torch.cat(parts, 2)

    def outcomes_of(self, root: Tensor) -> Tensor:
        """Outcomes [N_1] after the first stage at ``root`` [D], standardised units."""
        mean, covariance = self.belief.posterior(root[None, None])
        z = self.outcomes[:: self.shape.paths // self.shape.nodes(1), 0]
        return mean[0, 0] + (covariance[0, 0, 0] + self.belief.noise).sqrt() * z

    def _condition(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Factor [R, P, S-1, S-1] of the inner points' outcomes, and its solve against the leaf [R, P, S-1, Q]."""
        inner = self.shape.stages - 1
        noise = self.belief.noise * torch.eye(inner, dtype=rows.dtype)
        root = torch.linalg.cholesky(rows[..., :inner] + noise)
        return root, torch.linalg.solve_triangular(root, rows[..., inner:], upper=False)

    def _draws(self) -> Tensor:
        if self.normals is None or self.normals.shape[-1] != self.shape.leaf:
            raise ValueError(f"a leaf of {self.shape.leaf} points needs normal draws of as many")
        return self.normals
