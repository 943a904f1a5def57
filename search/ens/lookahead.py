"""Efficient non-myopic search: the score of a point if all later queries were made at once (Jiang et al., ICML 2017).

f(x) = p_x + p_x S_r(D + (x, 1)) + (1 - p_x) S_r(D + (x, 0)), where S_r is the sum of the r largest posteriors among the
other open points and r the number of queries that follow. r = 0 is greedy, r = 1 the exact two-step look-ahead.

Pruning: f(x) <= p_x + p_x U1 + (1 - p_x) U0. The U here belong to the candidate, not to the pool: for any
threshold t, S_r(q) <= r t + sum_i max(0, q_i - t), with equality at the r-th largest q. With t taken before the
observation, only neighbours at or above t enter, so that the bounds of all candidates cost one pass over their rows.
S_r(q) <= r max q is the tighter one where few queries are left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from search.ens.errors import PoolError
from search.ens.knn import KnnModel

# Scores that agree to so many decimals are equal: most of a fresh pool's are, and rounding must not tell them apart.
DECIMALS = 9
# A bound may fall so far below its score by rounding: both are sums of some hundreds of probabilities.
SLACK = 1e-12
NONE_OPEN = "no point is open: every point of the pool is observed"

Scorer = Callable[[int], float]
"""The exact score of one point."""


@dataclass(frozen=True)
class Pick:
    """The chosen point, its score and how many candidates were scored exactly."""

    index: int
    score: float
    scored: int


def pick(model: KnnModel, remaining: int, *, prune: bool = True) -> Pick:
    """The open point with the largest score; of equal ones that with the smallest index.

    Args:
        remaining: queries that follow this one.
        prune: skip candidates whose bound is below the best score so far; the pick is the same either way.

    Raises:
        PoolError: no point is open.
    """
    if remaining <= 0:
        return _greedy(model)
    ahead = Lookahead(model, remaining)
    return best_of(ahead.bounds(), ahead.score, prune=prune)


def best_of(bounds: np.ndarray, score: Scorer, *, prune: bool = True) -> Pick:
    """Score candidates in falling order of their bounds [N] (-inf: no candidate) until no bound reaches the best.

    Raises:
        PoolError: there is no candidate.
    """
    reach = np.round(bounds + SLACK, DECIMALS)
    # Of equal bounds the smallest index comes first, so that one exact score settles all of them.
    order = np.argsort(-reach, kind="stable")[: int(np.isfinite(bounds).sum())]
    if not len(order):
        raise PoolError(NONE_OPEN)
    best, exact, value, scored = -1, -np.inf, -np.inf, 0
    for index in map(int, order):
        if prune and (reach[index] < value or (reach[index] == value and index > best)):
            break
        found = score(index)
        scored += 1
        rounded = round(found, DECIMALS)
        if rounded > value or (rounded == value and index < best):
            best, exact, value = index, found, rounded
    return Pick(best, exact, scored)


def _greedy(model: KnnModel) -> Pick:
    chances = np.where(model.open, model.p, -np.inf)
    index = int(chances.argmax())
    if model.labels[index] >= 0:
        raise PoolError(NONE_OPEN)
    return Pick(index, float(chances[index]), 1)


class Lookahead:
    """Scores and bounds of all candidates at one state of a model, with ``remaining`` >= 1 queries to follow."""

    def __init__(self, model: KnnModel, remaining: int) -> None:
        self.model = model
        self.remaining = remaining
        chances = np.where(model.open, model.p, -np.inf)
        # Whatever one observation removes from the r largest, r of these are left.
        count = min(remaining + model.widest + 1, int(model.open.sum()))
        top = np.argpartition(-chances, count - 1)[:count] if count else np.zeros(0, dtype=int)
        self.top = top[np.argsort(-chances[top], kind="stable")]
        self.top_p = chances[self.top]
        self._mark = np.full(len(model), -1)

    def score(self, index: int) -> float:
        """f of one open point."""
        chance = float(self.model.p[index])
        update = self.model.update(index)
        self._mark[update.rows] = index
        self._mark[index] = index
        others = self.top_p[self._mark[self.top] != index][: self.remaining]
        later = [_largest(others, new, self.remaining) for new in (update.if_positive, update.if_negative)]
        return chance + chance * later[0] + (1 - chance) * later[1]

    def bounds(self) -> np.ndarray:
        """Upper bounds [N] of the score; -inf where a point is observed."""
        chance = self.model.p
        if_positive, if_negative = self.future_bounds()
        bound = chance + chance * if_positive + (1 - chance) * if_negative
        return np.where(self.model.open, bound, -np.inf)

    def future_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """U1 and U0 [N]: bounds of S_r after a positive and after a negative at each point."""
        model = self.model
        enough = len(self.top) >= self.remaining
        threshold = float(self.top_p[self.remaining - 1]) if enough else 0.0
        above = np.maximum(model.p - threshold, 0) * model.open
        base = self.remaining * threshold + above.sum() - above
        bounds = []
        for label in (1, 0):
            after = model.entries_after(label)
            change = np.maximum(after - threshold, 0) - model.entries(above)
            bounds.append(base + model.column_sums(change * model.entries(model.open)))
            if label and self.remaining < model.widest:
                # More neighbours may pass the threshold than queries are left: no r of them exceed r times the largest.
                largest = np.maximum(self.top_p[0] if len(self.top) else 0.0, model.column_maxima(after))
                bounds[0] = np.minimum(bounds[0], self.remaining * largest)
        return bounds[0], bounds[1]


def _largest(others: np.ndarray, new: np.ndarray, count: int) -> float:
    """Sum of the ``count`` largest of two sets of posteriors."""
    joined = np.concatenate([others, new])
    if len(joined) <= count:
        return float(joined.sum())
    return float(np.partition(joined, len(joined) - count)[-count:].sum())
