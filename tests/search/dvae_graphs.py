"""Random graphs for the tests of the D-VAE."""

import numpy as np

from search.dvae.dags import END, FIRST_KIND, START, TypedDag


def random_dags(count: int, largest: int = 7, kinds: int = 3, seed: int = 0) -> list[TypedDag]:
    """Graphs of 2 .. ``largest`` vertices with edges at random, some vertices unread."""
    rng = np.random.default_rng(seed)
    return [_one(rng, int(rng.integers(2, largest + 1)), kinds) for _ in range(count)]


def bounded_dags(count: int, largest: int = 7, kinds: int = 3, seed: int = 0) -> list[TypedDag]:
    """Different graphs whose vertices all lie between START and END."""
    found = (dag for dag in random_dags(200 * count, largest, kinds, seed) if dag.bounded)
    return list(dict.fromkeys(found))[:count]


def _one(rng: np.random.Generator, size: int, kinds: int) -> TypedDag:
    inner = (int(kind) + FIRST_KIND for kind in rng.integers(kinds, size=size - 2))
    edges = tuple((u, v) for v in range(size) for u in range(v) if rng.random() < 0.5)
    return TypedDag((START, *inner, END), edges)
