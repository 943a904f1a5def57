"""95 % paired intervals: a two-level bootstrap over seeds and users, seeds in groups where there are any."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from models.errors import ModelConfigError
from models.metrics import Floats, Ints, Scores, group_aucs, log_loss, ne_of_sums, same_rows

BootstrapMetric = Literal["ne", "gauc", "iauc", "calibration"]

_CHUNK_CELLS = 8_000_000


class PairedDifference(NamedTuple):
    """metric(a) - metric(b): the mean over seeds, its interval and its standard error over resamples.

    Where seeds are in groups the mean is that of the groups' means.
    """

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
    groups: Sequence[Hashable] | None = None,
) -> PairedDifference:
    """Interval of metric(a) - metric(b), the two scored on the same rows, one element of each sequence a seed.

    A resample draws seeds, then users, both with replacement. Seeds evaluate the same people, so one draw of users
    serves all drawn seeds: drawing users anew for each would pass for that many times as many users.

    Seeds that share a choice (the VM that one search found, trained several times) are no independent draws of it. With
    ``groups`` a resample draws groups first, then seeds within each drawn one; every group counts alike.

    Args:
        metric: which one; each is made of per-user sums, so that a resample costs one product of matrices.
        n: resamples.
        level: share of the resamples inside the interval (.90 for "equal within d").
        seed: of the draws.
        groups: of each seed; each is a group of its own when absent.

    Raises:
        ModelConfigError: no seeds, as many of a as of b or of groups are not given, or their rows differ.
    """
    if not scores_a or len(scores_a) != len(scores_b):
        raise ModelConfigError(
            f"got {len(scores_a)} and {len(scores_b)} seeds of scores; give as many of each, 1 or more"
        )
    if groups is not None and len(groups) != len(scores_a):
        raise ModelConfigError(f"got {len(groups)} groups for {len(scores_a)} seeds of scores; give one for each")
    pairs = [same_rows(a, b) for a, b in zip(scores_a, scores_b, strict=True)]
    first = pairs[0][0]
    for a, _ in pairs[1:]:
        same_rows(first, a)
    user = np.unique(first.user, return_inverse=True)[1].astype(np.int64)
    sums = [tuple(_user_sums(metric, s, user) for s in pair) for pair in pairs]
    members = _members(range(len(pairs)) if groups is None else groups)
    draws = _resample(sums, members, _FINISH[metric], n, np.random.default_rng(seed))
    once = np.ones((1, int(user.max()) + 1))
    whole = np.array([_difference(pair, _FINISH[metric], once)[0] for pair in sums])
    mean = float(np.mean([whole[group].mean() for group in members]))
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


def _members(groups: Sequence[Hashable]) -> list[list[int]]:
    """Places of the seeds of each group."""
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    return list(members.values())


def _resample(
    sums: Sequence[Sequence[Floats]],
    members: Sequence[Sequence[int]],
    finish: Callable[[Floats], Floats],
    n: int,
    rng: np.random.Generator,
) -> Floats:
    """Mean difference over drawn groups, seeds and users, for n resamples [n]."""
    users = len(sums[0][0])
    chunk = max(1, _CHUNK_CELLS // users)
    results = []
    for start in range(0, n, chunk):
        rows = min(chunk, n - start)
        drawn = rng.integers(0, users, (rows, users)) + np.arange(rows)[:, None] * users
        counts = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float64)
        by_seed = np.stack([_difference(pair, finish, counts) for pair in sums], axis=1)
        results.append(_mean_of_drawn(by_seed, members, rng))
    return np.concatenate(results)


def _mean_of_drawn(by_seed: Floats, members: Sequence[Sequence[int]], rng: np.random.Generator) -> Floats:
    """Mean over drawn groups of the mean over seeds drawn within each: [rows, seeds] -> [rows]."""
    sizes = np.array([len(group) for group in members])
    starts = np.cumsum(sizes) - sizes
    ordered = by_seed[:, [place for group in members for place in group]]
    groups = rng.integers(0, len(sizes), (len(by_seed), len(sizes)))
    size = sizes[groups][..., None]
    within = rng.integers(0, size, (*groups.shape, int(sizes.max())))
    drawn = np.take_along_axis(ordered, (starts[groups][..., None] + within).reshape(len(by_seed), -1), axis=1)
    # A group smaller than the largest draws as many seeds as it has.
    counted = np.where(np.arange(within.shape[2]) < size, drawn.reshape(within.shape), 0.0)
    return (counted.sum(axis=2) / size[..., 0]).mean(axis=1)
