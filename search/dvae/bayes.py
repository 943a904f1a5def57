"""Bayesian networks as a parameter and as graphs: each variable is one vertex with a type of its own.

Shape legend: V variables, W encoded width = V * (V - 1), P = V * (V - 1) / 2 pairs of variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.dvae.dags import END, FIRST_KIND, START, TypedDag, relabelled
from search.errors import SpaceError
from search.parameters import Floats, Parameter, Value

EDGE_SHARE = 0.3
"""Chance of an edge between two variables of a random network."""
TRIES = 100


@dataclass(frozen=True)
class Network(Parameter):
    """The structure of a network of ``variables``: a value is the rising list of its edges [parent, child]."""

    name: str
    variables: int

    def __post_init__(self) -> None:
        if self.variables < 2:
            raise SpaceError(f"{self.name}: got {self.variables} variables; allowed: 2 or more")

    @property
    def width(self) -> int:
        """W."""
        return self.variables * (self.variables - 1)

    @property
    def factors(self) -> tuple[int, ...]:
        """Of each pair a < b: no edge, a -> b, b -> a."""
        return (3,) * len(self._pairs)

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        return [(a, b) for b in range(self.variables) for a in range(b)]

    def check(self, value: Value) -> None:
        """Rising edges between variables, without a cycle."""
        edges = [tuple(edge) for edge in value]
        allowed = f"rising edges [parent, child] of variables 0 .. {self.variables - 1}, without a cycle"
        inside = all(len(edge) == 2 and set(edge) <= set(range(self.variables)) for edge in edges)
        if not inside or edges != sorted(set(edges)) or has_cycle(edges):
            raise self.rejected(value, allowed)

    def encode(self, value: Value) -> Floats:
        """[W], 1 for each edge."""
        self.check(value)
        adjacency = np.zeros((self.variables, self.variables))
        for parent, child in value:
            adjacency[parent, child] = 1.0
        return adjacency[~np.eye(self.variables, dtype=bool)]

    def decode(self, vector: Floats) -> Value:
        """Edges above one half, the largest first, each unless it closes a cycle."""
        places = np.argwhere(~np.eye(self.variables, dtype=bool))
        ranked = sorted(range(self.width), key=lambda place: -vector[place])
        return self._acyclic([tuple(places[place].tolist()) for place in ranked if vector[place] > 0.5])

    def sample(self, rng: np.random.Generator) -> Value:
        """A random order of the variables, then each edge along it with chance ``EDGE_SHARE``."""
        order = rng.permutation(self.variables).tolist()
        edges = [(order[a], order[b]) for a, b in self._pairs if rng.random() < EDGE_SHARE]
        return _as_value(edges)

    def mutate(self, value: Value, rng: np.random.Generator) -> Value:
        """One pair changed: an edge added, removed or turned."""
        for _ in range(TRIES):
            a, b = self._pairs[int(rng.integers(len(self._pairs)))]
            kept = [edge for edge in map(tuple, value) if set(edge) != {a, b}]
            options = [kept, [*kept, (a, b)], [*kept, (b, a)]]
            chosen = _as_value(options[int(rng.integers(3))])
            if chosen != value and not has_cycle(chosen):
                return chosen
        return self.sample(rng)

    def assemble(self, choices: Sequence[int]) -> Value:
        """Decisions [P] -> a network; an edge that would close a cycle is left out."""
        pairs = zip(self._pairs, choices, strict=True)
        return self._acyclic([(a, b) if choice == 1 else (b, a) for (a, b), choice in pairs if choice])

    def _acyclic(self, edges: Sequence[tuple[int, int]]) -> Value:
        kept: list[tuple[int, int]] = []
        for edge in edges:
            if not has_cycle([*kept, edge]):
                kept.append(edge)
        return _as_value(kept)


class NetworkCodec:
    """Codec of a ``Network``: START leads to the variables without parents, those without children lead to END.

    Vertices stand in the order that ``relabelled`` gives, so that equal networks are equal graphs.
    """

    def __init__(self, parameter: Network) -> None:
        self.parameter = parameter
        self.names: tuple[str, ...] = (parameter.name,)
        self.types = parameter.variables + FIRST_KIND
        self.max_vertices = parameter.variables + 2

    def to_dag(self, config: Mapping[str, Value]) -> TypedDag:
        """Variable i is the vertex of type i + 2."""
        edges = [(parent + 1, child + 1) for parent, child in config[self.parameter.name]]
        last = self.parameter.variables + 1
        roots = set(range(1, last)) - {child for _, child in edges}
        leaves = set(range(1, last)) - {parent for parent, _ in edges}
        edges += [(0, root) for root in roots] + [(leaf, last) for leaf in leaves]
        types = [START, *range(FIRST_KIND, self.types), END]
        return relabelled(types, edges)

    def to_values(self, dag: TypedDag) -> dict[str, Value] | None:
        """None unless each variable is there once, and START and END have exactly the edges that ``to_dag`` sets."""
        if sorted(dag.types[1:-1]) != list(range(FIRST_KIND, self.types)) or not dag.bounded:
            return None
        last = len(dag) - 1
        inner = [(u, v) for u, v in dag.edges if u > 0 and v < last]
        edges = [(dag.types[u] - FIRST_KIND, dag.types[v] - FIRST_KIND) for u, v in inner]
        values = {self.parameter.name: _as_value(edges)}
        return values if self.to_dag(values) == self.canonical(dag) else None

    def canonical(self, dag: TypedDag) -> TypedDag:
        """One order for isomorphic graphs: exact, since types differ."""
        return relabelled(dag.types, dag.edges)


def has_cycle(edges: Iterable[Sequence[int]]) -> bool:
    """Whether directed edges form a cycle."""
    left = {(edge[0], edge[1]) for edge in edges}
    while left:
        parents = {parent for parent, _ in left}
        inner = {edge for edge in left if edge[1] in parents}
        if len(inner) == len(left):
            return True
        left = inner
    return False


def _as_value(edges: Iterable[Sequence[int]]) -> Value:
    return [list(edge) for edge in sorted(map(tuple, edges))]
