"""Features of a graph's vertices for nearest neighbours: its slowest Laplacian modes (Fouss et al., 2007)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, identity
from scipy.sparse.csgraph import connected_components, laplacian
from scipy.sparse.linalg import LinearOperator, eigsh, splu

from search.ens.errors import PoolError

# The Laplacian itself is singular: it is factorised a little above its smallest eigenvalue, 0.
SHIFT = 1e-4


def largest_component(edges: np.ndarray) -> tuple[csr_matrix, np.ndarray]:
    """The largest connected component of an undirected graph.

    Args:
        edges: [E, 2], vertex numbers from 0; a repeated or reversed edge counts once.

    Returns:
        adjacency [N, N] of zeros and ones, and the vertex numbers [N] of its rows.
    """
    count = int(edges.max()) + 1
    one_way = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    adjacency = ((one_way + one_way.T) > 0).astype(float).tocsr()
    component = connected_components(adjacency, directed=False)[1]
    vertices = np.flatnonzero(component == np.bincount(component).argmax())
    return adjacency[vertices][:, vertices], vertices


def laplacian_features(adjacency: csr_matrix, count: int) -> np.ndarray:
    """The ``count`` eigenvectors of the smallest non-zero Laplacian eigenvalues, each over its eigenvalue [N, count].

    Raises:
        PoolError: the graph is not connected, or has too few vertices.
    """
    vertices = adjacency.shape[0]
    if vertices <= count + 1:
        raise PoolError(f"{count} features of a graph with {vertices} vertices: ask for at most {vertices - 2}")
    if connected_components(adjacency, directed=False)[0] > 1:
        raise PoolError("the graph is not connected: take one component of it (largest_component)")
    matrix = laplacian(adjacency).tocsc()
    # A symmetric ordering: the default one fills the factor of a citation graph twenty times as slowly.
    factor = splu(
        matrix + SHIFT * identity(vertices, format="csc"),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    inverse = LinearOperator(matrix.shape, matvec=factor.solve, dtype=float)
    start = np.random.default_rng(0).standard_normal(vertices)
    values, vectors = eigsh(matrix, k=count + 1, sigma=-SHIFT, OPinv=inverse, which="LM", v0=start)
    order = np.argsort(values)[1:]
    return np.asarray(vectors[:, order] / values[order])
