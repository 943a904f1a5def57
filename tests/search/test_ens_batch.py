"""Batches of active search, and the features of graphs."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from search.ens.batch import greedy_batch, greedy_myopic, sequential_simulation
from search.ens.errors import PoolError
from search.ens.graph import laplacian_features, largest_component
from search.ens.knn import KnnModel
from search.ens.lookahead import pick
from tests.search.test_ens import pool


def test_a_myopic_batch_holds_the_largest_posteriors():
    model = pool(3)
    batch = greedy_myopic(model, 5)
    others = np.setdiff1d(np.flatnonzero(model.open), batch)
    assert min(model.p[batch]) >= max(model.p[others])


@pytest.mark.parametrize("remaining", [0, 1, 12])
def test_a_batch_of_one_is_the_sequential_pick(remaining):
    model = pool(4)
    expected = pick(model, remaining).index
    assert sequential_simulation(model, 1, remaining) == [expected]
    assert greedy_batch(model, 1, remaining) == [expected]


def test_simulation_leaves_the_model_as_it_was():
    model = pool(5)
    before = model.p.copy()
    for oracle in ("pessimistic", "most_likely", "sampled"):
        batch = sequential_simulation(model, 4, 10, oracle, np.random.default_rng(0))
        assert len(set(batch)) == 4
        assert model.open[batch].all()
    assert np.array_equal(model.p, before)


def test_a_pessimistic_batch_spreads_over_clusters():
    # Points 0..2 share one neighbourhood and are a little likelier than the lone points 3..5.
    weights = np.zeros((8, 8))
    weights[:3, :3] = 3.0
    weights[:3, 6] = 1.0
    weights[3:6, 7] = 0.9
    model = KnnModel(csr_matrix(weights), prior=(0.3, 0.7))
    model.observe(6, 1)
    model.observe(7, 1)
    assert greedy_myopic(model, 3) == [0, 1, 2]
    assert sequential_simulation(model, 2, 0)[1] in (3, 4, 5)


def batch_value(model, batch, remaining):
    """sum p + E_y[S_r] over all label vectors of the batch."""
    states = [(1.0, model)]
    for index in batch:
        grown = []
        for weight, state in states:
            for label in (0, 1):
                after = state.copy()
                after.observe(index, label)
                chance = state.p[index] if label else 1 - state.p[index]
                grown.append((weight * chance, after))
        states = grown
    later = sum(weight * np.sort(state.p[state.open])[::-1][:remaining].sum() for weight, state in states)
    return model.p[batch].sum() + later


def test_a_greedy_batch_is_worth_more_than_a_myopic_one():
    better = []
    for seed in range(6):
        model = pool(seed, points=40, density=0.2, observed=3)
        batch = greedy_batch(model, 3, 10, samples=64, rng=np.random.default_rng(seed))
        better.append(batch_value(model, batch, 10) - batch_value(model, greedy_myopic(model, 3), 10))
    assert min(better) > -0.02
    assert np.mean(better) > 0.05


def test_the_second_point_of_a_batch_is_the_best_addition():
    model = pool(9, points=30, density=0.2, observed=3)
    first, second = greedy_batch(model, 2, 6, samples=4_000, rng=np.random.default_rng(1))
    values = {
        int(index): batch_value(model, [first, int(index)], 6) for index in np.flatnonzero(model.open) if index != first
    }
    assert values[second] >= max(values.values()) - 0.01


def test_batches_that_do_not_fit_the_pool_are_named():
    for make in (greedy_myopic, lambda model, size: greedy_batch(model, size, 3)):
        with pytest.raises(PoolError, match="open points"):
            make(pool(0), 100)
    with pytest.raises(PoolError, match="generator"):
        sequential_simulation(pool(0), 2, 3, "sampled")


def test_features_are_the_slowest_modes_over_their_eigenvalues():
    vertices = 12
    edges = np.array([(i, i + 1) for i in range(vertices - 1)] + [(3, 2), (20, 21)])
    adjacency, kept = largest_component(edges)
    assert kept.tolist() == list(range(vertices))
    assert adjacency.max() == 1
    features = laplacian_features(adjacency, 3)
    values = 2 - 2 * np.cos(np.pi * np.arange(1, 4) / vertices)
    matrix = np.diag(adjacency.sum(axis=1).A1 if hasattr(adjacency.sum(axis=1), "A1") else adjacency.sum(axis=1))
    matrix = matrix - adjacency.toarray()
    assert np.allclose(matrix @ features, features * values, atol=1e-6)
    assert np.allclose(np.linalg.norm(features, axis=0), 1 / values)


def test_graphs_that_cannot_have_features_are_named():
    adjacency, _ = largest_component(np.array([(0, 1), (1, 2)]))
    with pytest.raises(PoolError, match="at most 1"):
        laplacian_features(adjacency, 2)
    apart = csr_matrix(np.kron(np.eye(2), np.ones((4, 4)) - np.eye(4)))
    with pytest.raises(PoolError, match="not connected"):
        laplacian_features(apart, 2)
