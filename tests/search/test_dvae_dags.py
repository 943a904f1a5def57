"""Typed graphs, their batches, and one order for isomorphic graphs."""

import pytest
import torch

from search.dvae.dags import END, START, DagBatch, TypedDag, relabelled
from search.errors import SpaceError
from tests.search.dvae_graphs import random_dags


@pytest.mark.parametrize("edge", [(1, 1), (2, 1), (-1, 1), (0, 3)])
def test_an_edge_that_leads_back_or_out_is_named(edge):
    with pytest.raises(SpaceError, match=rf"edge \({edge[0]}, {edge[1]}\) of a graph of 3 vertices"):
        TypedDag((START, 2, END), (edge,))


def test_equal_graphs_are_equal_whatever_the_order_of_their_edges():
    assert TypedDag((0, 2, 1), ((1, 2), (0, 1))) == TypedDag((0, 2, 1), ((0, 1), (1, 2), (0, 1)))


@pytest.mark.parametrize(
    ("types", "edges", "bounded"),
    [
        ((0, 2, 1), ((0, 1), (1, 2)), True),
        ((0, 1), ((0, 1),), True),
        ((0, 2, 1), ((0, 2), (1, 2)), False),
        ((0, 2, 1), ((0, 1), (0, 2)), False),
        ((0, 2, 2), ((0, 1), (1, 2)), False),
        ((0, 1, 1), ((0, 1), (1, 2)), False),
        ((0, 0, 1), ((0, 1), (1, 2)), False),
        ((0,), (), False),
    ],
)
def test_bounded_graphs_have_one_start_one_end_and_no_loose_vertex(types, edges, bounded):
    assert TypedDag(types, edges).bounded is bounded


def test_a_batch_gives_its_graphs_back():
    dags = random_dags(20)
    batch = DagBatch.of(dags, 9)
    assert list(batch.dags()) == dags
    assert list(DagBatch.cat([batch[:7], batch[7:]]).dags()) == dags
    assert list(batch[torch.tensor([3, 1])].dags()) == [dags[3], dags[1]]


def test_codes_tell_graphs_apart_as_equality_does():
    dags = random_dags(60, largest=4, kinds=2)
    assert len(set(DagBatch.of(dags, 6).codes())) == len(set(dags))


def test_a_graph_that_is_too_large_names_the_setting():
    with pytest.raises(SpaceError, match="5 vertices; this model takes at most 4: raise max_vertices"):
        DagBatch.of([TypedDag((0, 2, 2, 2, 1), ())], 4)


def test_isomorphic_graphs_of_different_types_become_equal():
    one = relabelled((0, 3, 2, 4, 1), [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)])
    other = relabelled((0, 2, 4, 3, 1), [(0, 1), (0, 3), (3, 2), (1, 2), (2, 4)])
    assert one == other == TypedDag((0, 2, 3, 4, 1), ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4)))


def test_a_cycle_has_no_topological_order():
    with pytest.raises(SpaceError, match="form a cycle"):
        relabelled((0, 2, 3, 1), [(1, 2), (2, 1)])
