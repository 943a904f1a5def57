"""95 % paired intervals: a two-level bootstrap over seeds and users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from models.errors import ModelConfigError
from models.metrics import Floats, Ints, Scores, group_aucs, log_loss, ne_of_sums, same_rows

BootstrapMetric = Literal["ne", "gauc", "iauc", "calibration"]

_CHUNK_CELLS = 8_000_000


class PairedDifference(NamedTuple):
    """metric(a) - metric(b): the mean over seeds, its interval and its standard error over resamples."""

    mean: float
    low: float
    high: float
    se: float
    seeds: int


def paired_difference(
    metric: BootstrapMetric,
    scores_a: Sequence[Scores],
    scores_b: Sequence[Scores],
    n: int = 200,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Interval of metric(a) - metric(b), the two scored on the same rows, one element of each sequence a seed.

    A resample draws seeds, then users, both with replacement. Seeds evaluate the same people, so one draw of users
    serves all drawn seeds: drawing users anew for each would pass for that many times as many users.

    Args:
        metric: which one; each is made of per-user sums, so that a resample costs one product of matrices.
        n: resamples.
        level: share of the resamples inside the interval (.90 for "equal within d").
        seed: of the draws.

    Raises:
        ModelConfigError: no seeds, as many of a as of b are not given, or their rows differ.
    """
    if not scores_a or len(scores_a) != len(scores_b):
        raise ModelConfigError(
            f"got {len(scores_a)} and {len(scores_b)} seeds of scores; give as many of each, 1 or more"
        )
    pairs = [same_rows(a, b) for a, b in zip(scores_a, scores_b, strict=True)]
    first = pairs[0][0]
    for a, _ in pairs[1:]:
        same_rows(first, a)
    user = np.unique(first.user, return_inverse=True)[1].astype(np.int64)
    sums = [tuple(_user_sums(metric, s, user) for s in pair) for pair in pairs]
    draws = _resample(sums, _FINISH[metric], n, np.random.default_rng(seed))
    once = np.ones((1, int(user.max()) + 1))
    mean = float(np.mean([_difference(pair, _FINISH[metric], once)[0] for pair in sums]))
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return PairedDifference(mean, float(low), float(high), float(np.nanstd(draws)), len(pairs))


def _user_sums(metric: BootstrapMetric, scores: Scores, user: Ints) -> Floats:
    """Sums [U, S] that the metric of any multiset of users is a function of."""
    size = int(user.max()) + 1
    if metric in ("gauc", "iauc"):
        return _auc_sums(metric == "gauc", scores, user, size)
    values = log_loss(scores.label, scores.p) if metric == "ne" else scores.p
    columns = [scores.weight * values, scores.weight * scores.label, scores.weight]
    return np.stack([np.bincount(user, column, size) for column in columns], axis=1)


def _auc_sums(per_user: bool, scores: Scores, user: Ints, size: int) -> Floats:
    if per_user:
        parts, owner = group_aucs(scores.label, scores.p, user, scores.weight), np.arange(size)
        weight = parts.weight
    else:
        rows = np.flatnonzero(scores.has_impression)
        if not len(rows):
            return np.zeros((size, 2))
        parts = group_aucs(scores.label[rows], scores.p[rows], scores.impression_id[rows], scores.weight[rows])
        firsts = np.unique(scores.impression_id[rows], return_index=True)[1]
        owner, weight = user[rows[firsts]], np.ones(len(parts.auc))
    weight = np.where(np.isnan(parts.auc), 0.0, weight)
    value = np.nan_to_num(parts.auc) * weight
    return np.stack([np.bincount(owner, value, size), np.bincount(owner, weight, size)], axis=1)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)


def _ne(sums: Floats) -> Floats:
    return ne_of_sums(sums[:, 0], sums[:, 1], sums[:, 2])


_FINISH: dict[str, Callable[[Floats], Floats]] = {"ne": _ne, "gauc": _ratio, "iauc": _ratio, "calibration": _ratio}


def _difference(pair: Sequence[Floats], finish: Callable[[Floats], Floats], counts: Floats) -> Floats:
    return finish(counts @ pair[0]) - finish(counts @ pair[1])


def _resample(
    sums: Sequence[Sequence[Floats]], finish: Callable[[Floats], Floats], n: int, rng: np.random.Generator
) -> Floats:
    """Mean difference over drawn seeds and users, for n resamples [n]."""
    users = len(sums[0][0])
    chunk = max(1, _CHUNK_CELLS // users)
    results = []
    for start in range(0, n, chunk):
        rows = min(chunk, n - start)
        drawn = rng.integers(0, users, (rows, users)) + np.arange(rows)[:, None] * users
        counts = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float64)
        by_seed = np.stack([_difference(pair, finish, counts) for pair in sums], axis=1)
        chosen = rng.integers(0, len(sums), (rows, len(sums)))
        results.append(np.take_along_axis(by_seed, chosen, axis=1).mean(axis=1))
    return np.concatenate(results)
