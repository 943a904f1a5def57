"""Directed acyclic graphs with typed vertices, one and many.

Shape legend: B graphs, N most vertices of a graph, n vertices of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search.errors import SpaceError

START, END = 0, 1
"""Types of the vertex that reads nothing and of the vertex that nothing reads; kinds of blocks follow."""
FIRST_KIND = 2


@dataclass(frozen=True)
class TypedDag:
    """One graph. Vertices stand in a topological order: every edge (u, v) has u < v; edges are sorted.

    Raises:
        SpaceError: an edge does not lead from an earlier to a later vertex.
    """

    types: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for u, v in self.edges:
            if not 0 <= u < v < len(self.types):
                raise SpaceError(f"edge ({u}, {v}) of a graph of {len(self.types)} vertices; allowed: 0 <= u < v < n")
        object.__setattr__(self, "edges", tuple(sorted(set(self.edges))))

    def __len__(self) -> int:
        return len(self.types)

    @property
    def parents(self) -> list[list[int]]:
        """Predecessors of each vertex, rising."""
        found: list[list[int]] = [[] for _ in self.types]
        for u, v in self.edges:
            found[v].append(u)
        return found

    @property
    def bounded(self) -> bool:
        """One START, first; one END, last; every other vertex has a predecessor and a successor."""
        inner = self.types[1:-1]
        if len(self) < 2 or self.types[0] != START or self.types[-1] != END or {START, END} & set(inner):
            return False
        return {u for u, _ in self.edges} >= set(range(len(self) - 1)) and {v for _, v in self.edges} >= set(
            range(1, len(self))
        )


@dataclass(frozen=True)
class DagBatch:
    """Padded graphs: ``types`` int64 [B, N], END behind a graph's last vertex; ``adjacency`` float [B, N, N], 1 at
    [b, u, v] for an edge u -> v; ``sizes`` int64 [B]."""

    types: Tensor
    adjacency: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.types)

    def __getitem__(self, rows: Tensor | slice) -> DagBatch:
        return DagBatch(self.types[rows], self.adjacency[rows], self.sizes[rows])

    @classmethod
    def of(cls, dags: Sequence[TypedDag], vertices: int) -> DagBatch:
        """Graphs padded to ``vertices`` = N.

        Raises:
            SpaceError: a graph is larger.
        """
        if largest := max((len(dag) for dag in dags if len(dag) > vertices), default=0):
            raise SpaceError(f"a graph has {largest} vertices; this model takes at most {vertices}: raise max_vertices")
        types = np.full((len(dags), vertices), END, dtype=np.int64)
        adjacency = np.zeros((len(dags), vertices, vertices), dtype=np.float32)
        for row, dag in enumerate(dags):
            types[row, : len(dag)] = dag.types
            if dag.edges:
                u, v = np.array(dag.edges).T
                adjacency[row, u, v] = 1.0
        sizes = torch.tensor([len(dag) for dag in dags], dtype=torch.int64)
        return cls(torch.from_numpy(types), torch.from_numpy(adjacency), sizes)

    @classmethod
    def cat(cls, batches: Sequence[DagBatch]) -> DagBatch:
        """One batch after another."""
        return cls(
            torch.cat([batch.types for batch in batches]),
            torch.cat([batch.adjacency for batch in batches]),
            torch.cat([batch.sizes for batch in batches]),
        )

    def dag(self, row: int) -> TypedDag:
        """One graph of the batch."""
        size = int(self.sizes[row])
        edges = self.adjacency[row, :size, :size].nonzero().tolist()
        return TypedDag(tuple(self.types[row, :size].tolist()), tuple((u, v) for u, v in edges))

    def dags(self) -> Iterator[TypedDag]:
        """All graphs."""
        return (self.dag(row) for row in range(len(self)))

    def codes(self) -> list[bytes]:
        """One code a graph: equal codes, equal graphs. Much faster than comparing ``dags``."""
        columns = [self.sizes[:, None].numpy(), self.types.numpy()]
        edges = np.packbits(self.adjacency.bool().flatten(1).numpy(), axis=1)
        rows = np.concatenate([*(column.astype(np.uint8) for column in columns), edges], axis=1)
        return [row.tobytes() for row in rows]


def relabelled(types: Sequence[int], edges: Iterable[tuple[int, int]]) -> TypedDag:
    """The graph with its vertices in one fixed topological order: of all that are ready, the smallest type first.

    Isomorphic graphs become equal where no two vertices that are ready at once share a type.

    Raises:
        SpaceError: the edges form a cycle.
    """
    edges = list(edges)
    waiting = {v: {u for u, target in edges if target == v} for v in range(len(types))}
    order: list[int] = []
    while waiting:
        ready = [v for v, parents in waiting.items() if parents <= set(order)]
        if not ready:
            raise SpaceError(f"the edges {edges} form a cycle; a graph of blocks has none")
        places = {v: tuple(order.index(u) for u in sorted(waiting[v], key=order.index)) for v in ready}
        chosen = min(ready, key=lambda v: (types[v] == END, types[v], places[v]))
        order.append(chosen)
        del waiting[chosen]
    place = {v: i for i, v in enumerate(order)}
    return TypedDag(tuple(types[v] for v in order), tuple((place[u], place[v]) for u, v in edges))
