"""Active search: the kNN posterior, the look-ahead score and its pruning, and exact dynamic programming."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_sparse

from search.ens.errors import PoolError
from search.ens.exact import optimal_value, policy_value
from search.ens.knn import KnnModel, knn_weights
from search.ens.lookahead import Lookahead, pick


def pool(seed, points=60, density=0.12, observed=8, uniform=False):
    rng = np.random.default_rng(seed)
    weights = random_sparse(points, points, density, random_state=seed, format="csr")
    if uniform:
        weights.data[:] = 1.0
    model = KnnModel(weights, prior=(0.1, 0.9))
    for index in rng.choice(points, observed, replace=False):
        model.observe(int(index), int(rng.random() < 0.4))
    return model


def brute_score(model, index, remaining):
    """f(x) by copying the whole model."""
    total = chance = model.p[index]
    for label, weight in ((1, chance), (0, 1 - chance)):
        after = model.copy()
        after.observe(index, label)
        total += weight * np.sort(after.p[after.open])[::-1][:remaining].sum()
    return total


def test_posterior_counts_weights_of_observed_neighbours():
    weights = csr_matrix(np.array([[0, 2.0, 1.0], [1.0, 0, 0], [0, 0, 0]]))
    model = KnnModel(weights, prior=(0.5, 1.5))
    assert model.p.tolist() == [0.25, 0.25, 0.25]
    model.observe(1, 1)
    model.observe(2, 0)
    assert model.p[0] == pytest.approx((0.5 + 2) / (2 + 3))
    assert model.open.tolist() == [True, False, False]
    assert model.found == 1


def test_a_copy_keeps_its_own_observations():
    model = pool(0)
    twin = model.copy()
    index = int(np.flatnonzero(twin.open)[0])
    twin.observe(index, 1)
    assert model.open[index]
    assert not np.array_equal(model.p, twin.p)


@pytest.mark.parametrize("remaining", [1, 2, 7, 40, 200])
@pytest.mark.parametrize("uniform", [True, False])
def test_score_is_what_observing_each_label_gives(remaining, uniform):
    model = pool(remaining, uniform=uniform)
    ahead = Lookahead(model, remaining)
    for index in np.flatnonzero(model.open):
        assert ahead.score(int(index)) == pytest.approx(brute_score(model, int(index), remaining), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("remaining", [1, 3, 15, 51, 80])
def test_bounds_are_never_below_scores(seed, remaining):
    model = pool(seed)
    ahead = Lookahead(model, remaining)
    bounds = ahead.bounds()
    assert np.isneginf(bounds[~model.open]).all()
    scores = np.array([ahead.score(int(index)) for index in np.flatnonzero(model.open)])
    assert (bounds[model.open] >= scores - 1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_pruned_and_unpruned_search_pick_the_same_points(seed):
    model = pool(seed, points=150, density=0.05, observed=3, uniform=seed % 2 == 0)
    rng = np.random.default_rng(seed)
    spared = 0
    for remaining in range(30, -1, -1):
        pruned, full = pick(model, remaining), pick(model, remaining, prune=False)
        assert (pruned.index, pruned.score) == (full.index, full.score)
        spared += full.scored - pruned.scored
        model.observe(pruned.index, int(rng.random() < model.p[pruned.index]))
    assert spared > 1_500


def ens_policy(model, left):
    return pick(model, left - 1).index


def tiny(seed):
    return pool(seed, points=8, density=0.4, observed=1)


@pytest.mark.parametrize("seed", range(8))
def test_with_two_queries_left_the_look_ahead_is_optimal(seed):
    assert policy_value(tiny(seed), 2, ens_policy) == pytest.approx(optimal_value(tiny(seed), 2), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_no_policy_is_above_the_optimum(seed):
    model = tiny(seed)
    for queries in (3, 5):
        best = optimal_value(model, queries)
        greedy = policy_value(model, queries, lambda model, left: pick(model, 0).index)
        assert policy_value(model, queries, ens_policy) <= best + 1e-12
        assert greedy <= best + 1e-12


def test_looking_ahead_finds_more_than_greed_where_a_gateway_hides_a_cluster():
    # Point 0 is likelier than the gateway 1, but only 1's label tells of 2..5.
    weights = np.zeros((7, 7))
    weights[2:6, 1] = 5.0
    weights[0, 6] = 1.0
    model = KnnModel(csr_matrix(weights), prior=(0.4, 0.6))
    model.observe(6, 1)
    greedy = policy_value(model, 4, lambda model, left: pick(model, 0).index)
    assert pick(model, 0).index == 0
    assert pick(model, 3).index == 1
    assert policy_value(model, 4, ens_policy) > greedy


def test_neighbours_are_the_nearest_other_points():
    features = np.array([[0.0], [1.0], [3.0], [3.1], [9.0]])
    weights = knn_weights(features, 2).toarray()
    assert weights.sum(axis=1).tolist() == [2] * 5
    assert np.flatnonzero(weights[0]).tolist() == [1, 2]
    assert np.flatnonzero(weights[4]).tolist() == [2, 3]
    assert knn_weights(np.zeros((6, 2)), 3).diagonal().sum() == 0
    assert (knn_weights(np.zeros((6, 2)), 3).sum(axis=1) == 3).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KnnModel(csr_matrix((3, 2))), "shape"),
        (lambda: KnnModel(csr_matrix(np.array([[0, -1.0], [0, 0]]))), "negative"),
        (lambda: KnnModel(csr_matrix((2, 2)), prior=(0.0, 1.0)), "pseudo-counts"),
        (lambda: pool(0).observe(int(np.flatnonzero(~pool(0).open)[0]), 1), "observed already"),
        (lambda: pool(0).observe(0, 2), "0 or 1"),
        (lambda: knn_weights(np.zeros((4, 1)), 4), "k = 4"),
        (lambda: knn_weights(np.array([[0.0], [np.nan], [1.0]]), 1), "finite"),
        (lambda: optimal_value(pool(0), 2), "at most 8"),
        (lambda: pick(pool(0, points=8, observed=8), 0), "no point is open"),
        (lambda: pick(pool(0, points=8, observed=8), 2), "no point is open"),
    ],
)
def test_impossible_pools_are_named(make, message):
    with pytest.raises(PoolError, match=message):
        make()
