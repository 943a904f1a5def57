"""Codecs between configurations and graphs: exact inverses, and what is no graph of the space is told apart."""

import numpy as np
import pytest
import torch

from search.dvae.bayes import Network, NetworkCodec, has_cycle
from search.dvae.codec import GraphCodec, most_frequent
from search.dvae.dags import DagBatch, TypedDag
from search.dvae.enas import BURN_IN, EnasCells, cell_dag, enas_space, read_enas
from search.errors import ConfigurationError, SpaceError
from search.graphs import Dag
from search.space import SearchSpace

BLOCKS = Dag("body", ("linear-16", "cross-16", "dot-32"), 2, 4)
NETWORK = Network("network", 5)
CELL = [[1], [4, 0], [5, 0, 0], [0, 1, 1, 1], [2, 1, 1, 1, 1], [3, 0, 0, 0, 0, 1]]


def cases():
    return [
        (SearchSpace([BLOCKS]), GraphCodec(BLOCKS)),
        (SearchSpace([NETWORK]), NetworkCodec(NETWORK)),
        (enas_space(), EnasCells()),
    ]


@pytest.mark.parametrize(("space", "codec"), cases())
def test_configurations_come_back(space, codec):
    rng = np.random.default_rng(0)
    for _ in range(60):
        config = space.sample(rng)
        dag = codec.to_dag(config)
        assert dag.bounded
        assert len(dag) <= codec.max_vertices
        assert max(dag.types) < codec.types
        assert codec.to_values(dag) == config
        assert codec.canonical(dag) == dag


@pytest.mark.parametrize(("space", "codec"), cases())
def test_random_graphs_that_are_accepted_are_configurations_and_others_are_refused(space, codec):
    rng = np.random.default_rng(1)
    accepted = []
    for _ in range(300):
        dag = _changed(codec.to_dag(space.sample(rng)), codec.types, rng)
        values = codec.to_values(dag)
        accepted.append(values is not None)
        if values is not None:
            space.validate(values)
            assert codec.to_dag(values) == codec.canonical(dag)
    assert 0 < sum(accepted) < len(accepted)


def _changed(dag, types, rng):
    """One edge flipped, one type drawn again."""
    u, v = sorted(rng.choice(len(dag), 2, replace=False).tolist())
    place = int(rng.integers(len(dag)))
    kinds = [*dag.types]
    kinds[place] = int(rng.integers(types))
    return TypedDag(tuple(kinds), tuple(set(dag.edges) ^ {(u, v)}))


def test_a_cell_always_reads_the_layer_before():
    assert cell_dag(CELL) == TypedDag(
        (0, 3, 6, 7, 2, 4, 5, 1),
        (
            *((i, i + 1) for i in range(7)),
            *((0, 4), (1, 4), (2, 4), (0, 5), (1, 5), (2, 5), (3, 5), (4, 6)),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    "dag",
    [
        TypedDag((0, 2, 2, 2, 2, 2, 1), tuple((i, i + 1) for i in range(6))),
        TypedDag((0, 2, 2, 2, 2, 2, 2, 1), (*((i, i + 1) for i in range(7)), (3, 7))),
        TypedDag((0, 2, 2, 2, 2, 2, 2, 1), ((0, 1), (0, 2), (1, 3), (2, 3), *((i, i + 1) for i in range(3, 7)))),
    ],
    ids=["five layers", "END reads more", "no chain"],
)
def test_what_is_no_cell(dag):
    assert EnasCells().to_values(dag) is None


@pytest.mark.parametrize("row", [[[1], [2]], [[9]], [[-1]], [[1], [2, 0, 1]]])
def test_a_row_that_is_no_cell_is_named(row):
    with pytest.raises(SpaceError, match=r"layer \d is .* allowed: an operation below 6"):
        cell_dag(row)


def test_the_split_leaves_the_first_rows_out(tmp_path):
    path = tmp_path / "cells.txt"
    path.write_text("".join(f"{CELL}, {i}\n" for i in range(BURN_IN + 100)))
    split = read_enas(path)
    assert (len(split.train), len(split.test)) == (90, 10)
    assert sorted(split.train_accuracy + split.test_accuracy) == list(range(BURN_IN, BURN_IN + 100))
    assert split.test_accuracy != sorted(split.test_accuracy)


@pytest.mark.parametrize("line", ["[[1]", "[[1], [2]], 0.5", "[[1]]", "text"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "cells.txt"
    path.write_text(f"{CELL}, 0.7\n{line}\n")
    with pytest.raises(SpaceError, match=r"cells.txt, line 2: not a cell and its accuracy"):
        read_enas(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpaceError, match="no file of ENAS cells"):
        read_enas(tmp_path / "absent.txt")


def test_a_network_with_a_cycle_is_no_value():
    NETWORK.check([[0, 1], [1, 2], [3, 2]])
    for wrong in ([[0, 1], [1, 0]], [[1, 2], [0, 1]], [[0, 5]], [[0, 1], [0, 1]], [[0, 0]]):
        with pytest.raises(ConfigurationError, match=r"network: got .* without a cycle"):
            NETWORK.check(wrong)
    with pytest.raises(SpaceError, match="allowed: 2 or more"):
        Network("network", 1)


def test_networks_are_encoded_mutated_and_assembled_without_cycles():
    rng = np.random.default_rng(0)
    value = NETWORK.sample(rng)
    for _ in range(50):
        changed = NETWORK.mutate(value, rng)
        NETWORK.check(changed)
        assert changed != value
        assert NETWORK.decode(NETWORK.encode(changed)) == changed
        NETWORK.check(NETWORK.decode(rng.random(NETWORK.width)))
        NETWORK.check(NETWORK.assemble([int(rng.integers(size)) for size in NETWORK.factors]))
        value = changed
    assert NETWORK.assemble([1, 2, 0, 0, 0, 0, 0, 0, 0, 0]) == [[0, 1], [2, 0]]


def test_cycles_are_found():
    assert has_cycle([(0, 1), (1, 2), (2, 0), (3, 0)])
    assert not has_cycle([(0, 1), (1, 2), (0, 2), (3, 0)])


def test_the_most_frequent_graph_of_each_vector():
    one, other = TypedDag((0, 2, 1), ((0, 1),)), TypedDag((0, 1), ())
    assert most_frequent(DagBatch.of([one, other, other, one, one, other], 3), 3) == [other, one]
    assert most_frequent(DagBatch.of([one, other], 3), 2) == [one]


def test_latents_do_not_depend_on_the_order_of_the_variables():
    codec = NetworkCodec(NETWORK)
    dag = codec.to_dag({"network": [[4, 0], [1, 0]]})
    assert dag.types[1:3] == (3, 4)
    assert torch.equal(DagBatch.of([dag], 7).types, DagBatch.of([codec.canonical(dag)], 7).types)
