"""Paired two-level bootstrap against metrics of rows really drawn."""

import numpy as np
import pytest

from models import bootstrap
from models.bootstrap import paired_difference
from models.errors import ModelConfigError
from models.metrics import Scores, evaluate, normalized_entropy
from tests.models.test_metrics import make_scores


def two_models(seed, shift=0.15, n=600):
    a = make_scores(seed=5, n=n, users=30)
    rng = np.random.default_rng(seed)
    b_p = np.clip(a.label * 0.5 + rng.random(n) * 0.5, 0.01, 0.99)
    return a.with_p(np.clip(b_p - shift * a.label + shift * (1 - a.label), 0.01, 0.99)), a.with_p(b_p)


@pytest.mark.parametrize("metric", ["ne", "gauc", "iauc", "calibration"])
def test_mean_and_interval_equal_resampled_rows(metric):
    a, b = two_models(1)
    fast = paired_difference(metric, [a], [b], 400)
    assert fast.mean == pytest.approx(evaluate(a)[metric] - evaluate(b)[metric])
    slow = slow_draws(metric, a, b, 400)
    assert fast.se == pytest.approx(np.std(slow), rel=0.2)
    assert fast.low == pytest.approx(np.quantile(slow, 0.025), abs=0.5 * np.std(slow))
    assert fast.high == pytest.approx(np.quantile(slow, 0.975), abs=0.5 * np.std(slow))


def slow_draws(metric, a, b, n):
    rng = np.random.default_rng(9)
    users = np.unique(a.user)
    draws = []
    for _ in range(n):
        chosen = rng.choice(users, len(users))
        index = [np.flatnonzero(a.user == user) for user in chosen]
        copy = np.repeat(np.arange(len(chosen)), [len(rows) for rows in index])
        rows = np.concatenate(index)
        drawn = [fresh_groups(s.take(rows), copy) for s in (a, b)]
        draws.append(evaluate(drawn[0])[metric] - evaluate(drawn[1])[metric])
    return np.array(draws)


def fresh_groups(scores, copy):
    """A user drawn twice is two users: their rows must not meet in one AUC."""
    return Scores(
        **{**vars(scores), "user": copy.astype(np.int64), "impression_id": copy * 100_000 + scores.impression_id}
    )


def test_seeds_widen_the_interval_and_order_of_rows_does_not_matter():
    pairs = [two_models(seed, shift) for seed, shift in ((1, 0.05), (2, 0.15), (3, 0.3))]
    one = paired_difference("ne", [pairs[1][0]], [pairs[1][1]])
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    three = paired_difference("ne", a, b)
    assert three.seeds == 3
    assert three.high - three.low > one.high - one.low
    shuffled = [s.take(np.random.default_rng(2).permutation(len(s))) for s in b]
    assert paired_difference("ne", a, shuffled) == pytest.approx(three)


def test_identical_models_differ_by_nothing_and_rows_must_match():
    a, b = two_models(1)
    assert paired_difference("gauc", [a], [a])[:4] == (0, 0, 0, 0)
    with pytest.raises(ModelConfigError, match="same rows"):
        paired_difference("ne", [a], [b.take(np.arange(10))])
    with pytest.raises(ModelConfigError, match="1 and 2 seeds"):
        paired_difference("ne", [a], [b, b])


def test_a_narrower_level_gives_a_narrower_interval():
    a, b = two_models(1)
    wide, narrow = paired_difference("ne", [a], [b]), paired_difference("ne", [a], [b], level=0.9)
    assert wide.low < narrow.low < narrow.high < wide.high


def seeds_in_groups():
    """Groups of three, two and one seeds, unlike each other."""
    groups = ["a", "b", "a", "c", "b", "a"]
    shift = {"a": 0.02, "b": 0.15, "c": 0.3}
    pairs = [two_models(seed, shift[group] + 0.02 * seed) for seed, group in enumerate(groups)]
    return groups, [a for a, _ in pairs], [b for _, b in pairs]


def test_groups_are_drawn_before_the_seeds_within_them():
    groups, a, b = seeds_in_groups()
    fast = paired_difference("ne", a, b, 3000, groups=groups)
    single = np.array([evaluate(x)["ne"] - evaluate(y)["ne"] for x, y in zip(a, b, strict=True)])
    means = [single[[place for place, of in enumerate(groups) if of == name]].mean() for name in "abc"]
    assert fast.mean == pytest.approx(np.mean(means)), "every group counts alike"
    slow = slow_grouped_draws(groups, a, b, 3000)
    assert fast.se == pytest.approx(np.std(slow), rel=0.05)
    assert fast.low == pytest.approx(np.quantile(slow, 0.025), abs=0.2 * np.std(slow))
    assert fast.high == pytest.approx(np.quantile(slow, 0.975), abs=0.2 * np.std(slow))
    assert paired_difference("ne", a, b, 3000).se < fast.se, "as if they were independent"


def slow_grouped_draws(groups, a, b, n):
    """One draw after the other: groups, seeds of each, users; the metric from the rows that were drawn."""
    rng = np.random.default_rng(9)
    rows_of = [np.flatnonzero(a[0].user == user) for user in np.unique(a[0].user)]
    names = sorted(set(groups))
    draws = []
    for _ in range(n):
        rows = np.concatenate([rows_of[user] for user in rng.integers(len(rows_of), size=len(rows_of))])
        label, weight = a[0].label[rows], a[0].weight[rows]
        means = []
        for name in rng.choice(names, len(names)):
            seeds = [place for place, of in enumerate(groups) if of == name]
            chosen = rng.choice(seeds, len(seeds))
            ne = [[normalized_entropy(label, s[i].p[rows], weight) for s in (a, b)] for i in chosen]
            means.append(np.mean([ours - theirs for ours, theirs in ne]))
        draws.append(np.mean(means))
    return np.array(draws)


def test_a_group_a_seed_is_no_group_and_copies_of_a_seed_tell_nothing_new(monkeypatch):
    pairs = [two_models(seed, shift) for seed, shift in ((1, 0.05), (2, 0.15), (3, 0.3))]
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    alone = paired_difference("ne", a, b)
    # A resample's draws come from one stream: many small chunks too must draw the same.
    monkeypatch.setattr(bootstrap, "_CHUNK_CELLS", 30 * 7)
    chunked = paired_difference("ne", a, b)
    assert paired_difference("ne", a, b, groups=["x", "y", "z"]) == chunked != alone
    monkeypatch.undo()
    thrice = [place for place in range(3) for _ in range(3)]
    copies = [[of[place] for place in thrice] for of in (a, b)]
    grouped = paired_difference("ne", *copies, groups=thrice)
    assert grouped[:4] == pytest.approx(alone[:4])
    assert grouped.seeds == 9
    independent = paired_difference("ne", *copies)
    assert independent.high - independent.low < 0.8 * (grouped.high - grouped.low)
    with pytest.raises(ModelConfigError, match="got 2 groups for 3 seeds of scores"):
        paired_difference("ne", a, b, groups=[0, 1])
