"""What ties a D-VAE to a search space: which parameters are a graph, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from search.dvae.dags import END, FIRST_KIND, START, DagBatch, TypedDag
from search.graphs import INPUT, Dag, Graph
from search.parameters import Value


class DagCodec(Protocol):
    """Between configurations and graphs.

    ``names`` are the parameters that the graph holds; ``types`` and ``max_vertices`` are what ``DvaeConfig`` asks for.
    """

    names: tuple[str, ...]
    types: int
    max_vertices: int

    def to_dag(self, config: Mapping[str, Value]) -> TypedDag:
        """Values of ``names`` -> graph."""
        ...

    def to_values(self, dag: TypedDag) -> dict[str, Value] | None:
        """The exact inverse up to isomorphism; None where ``dag`` is no graph of the space."""
        ...

    def canonical(self, dag: TypedDag) -> TypedDag:
        """The same graph for isomorphic ones, as far as the codec can tell."""
        ...


class GraphCodec:
    """Codec of a graph parameter: START is its input, END reads the blocks that no other reads."""

    def __init__(self, parameter: Dag) -> None:
        self.parameter = parameter
        self.names: tuple[str, ...] = (parameter.name,)
        self.types = len(parameter.kinds) + FIRST_KIND
        self.max_vertices = parameter.largest + 2

    def to_dag(self, config: Mapping[str, Value]) -> TypedDag:
        """Block i is vertex i."""
        graph = Graph.from_value(config[self.parameter.name])
        kinds = [self.parameter.kinds.index(kind) + FIRST_KIND for kind in graph.kinds]
        edges = [(source, block) for block, sources in enumerate(graph.inputs, start=1) for source in sources]
        edges += [(block, len(graph) + 1) for block in graph.outputs]
        return TypedDag((START, *kinds, END), tuple(edges))

    def to_values(self, dag: TypedDag) -> dict[str, Value] | None:
        """None unless every block reads something and END reads all outputs and nothing else."""
        blocks = len(dag) - 2
        if not dag.bounded or not self.parameter.smallest <= blocks <= self.parameter.largest:
            return None
        parents = dag.parents
        kinds = tuple(self.parameter.kinds[kind - FIRST_KIND] for kind in dag.types[1:-1])
        graph = Graph(kinds, tuple(tuple(sources) for sources in parents[1:-1]))
        if tuple(parents[-1]) != graph.outputs or INPUT in parents[-1]:
            return None
        return {self.parameter.name: graph.to_value()}

    def canonical(self, dag: TypedDag) -> TypedDag:
        """Itself: a block's place may carry other parameters."""
        return dag


def most_frequent(batch: DagBatch, decodings: int) -> list[TypedDag]:
    """Of each run of ``decodings`` graphs, those of one latent vector, the one that occurs most often.

    The earliest of equals counts. One draw alone would let a rare slip of the decoder stand for the vector.
    """
    codes, found = batch.codes(), []
    for start in range(0, len(codes), decodings):
        code, _ = Counter(codes[start : start + decodings]).most_common(1)[0]
        found.append(batch.dag(codes.index(code, start)))
    return found
