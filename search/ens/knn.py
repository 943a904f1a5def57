"""The nearest-neighbour posterior of active search (Garnett et al., ICML 2012; Jiang et al., ICML 2017, section 5).

A point is a positive with probability (a1 + weight of its positive neighbours) / (a1 + a0 + weight of its observed
neighbours). Observing a point changes only the points that name it as a neighbour: that is what makes looking ahead
over the whole pool affordable.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, spmatrix
from scipy.spatial import cKDTree

from search.ens.errors import PoolError

DEFAULT_PRIOR = (0.05, 1.0)


class Update(NamedTuple):
    """What one more observation would change: points [A], and their posteriors [A] for either label."""

    rows: np.ndarray
    if_positive: np.ndarray
    if_negative: np.ndarray


class KnnModel:
    """Posterior probabilities over a finite pool.

    Args:
        weights: [N, N], non-negative; row i holds the weights of i's neighbours. The diagonal is dropped.
        prior: (a1, a0), pseudo-counts of a positive and a negative.

    Raises:
        PoolError: the weights are not square or negative, or a pseudo-count is not positive.
    """

    def __init__(self, weights: spmatrix, prior: tuple[float, float] = DEFAULT_PRIOR) -> None:
        rows = csr_matrix(weights, dtype=float)
        if rows.shape[0] != rows.shape[1] or rows.shape[0] == 0:
            raise PoolError(f"weights of shape {rows.shape}: give one row and one column a point of the pool")
        if rows.nnz and rows.data.min() < 0:
            raise PoolError("a weight is negative: a neighbour's label cannot count less than nothing")
        if min(prior) <= 0:
            raise PoolError(f"prior {prior}: both pseudo-counts must be above 0")
        rows.setdiag(0)
        rows.eliminate_zeros()
        self.prior = prior
        self.rows: csr_matrix = rows
        self.columns: csc_matrix = rows.tocsc()
        self.widest = int(np.diff(self.columns.indptr).max())
        # Where a row's weights are all equal, what a neighbour's label does to its point is one number, not many.
        self.even = _even_weights(rows)
        self._pattern = csr_matrix(rows.T != 0, dtype=float) if self.even is not None else None
        self.labels = np.full(len(self), -1, dtype=np.int8)
        self.hits = np.zeros(len(self))
        self.mass = np.zeros(len(self))
        self.p = self._posterior(self.hits, self.mass)

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    @property
    def open(self) -> np.ndarray:
        """Points [N] (bool) whose label is not known yet."""
        return self.labels < 0

    @property
    def found(self) -> int:
        """Positives among the observed points."""
        return int((self.labels == 1).sum())

    def observe(self, index: int, label: int) -> None:
        """Take in the label (0 or 1) of one point.

        Raises:
            PoolError: the point was observed before, or the label is neither 0 nor 1.
        """
        if label not in (0, 1):
            raise PoolError(f"label {label} of point {index}: a label is 0 or 1")
        if self.labels[index] >= 0:
            raise PoolError(f"point {index} is observed already")
        rows, weights = self._column(index)
        self.labels[index] = label
        self.mass[rows] += weights
        if label:
            self.hits[rows] += weights
        self.p[rows] = self._posterior(self.hits[rows], self.mass[rows])

    def copy(self) -> KnnModel:
        """A model with the same weights whose observations are its own."""
        twin = object.__new__(KnnModel)
        twin.__dict__.update(self.__dict__)
        for name in ("labels", "hits", "mass", "p"):
            setattr(twin, name, getattr(self, name).copy())
        return twin

    def update(self, index: int) -> Update:
        """How the open points other than ``index`` would change if ``index`` were observed."""
        rows, weights = self._column(index)
        keep = self.labels[rows] < 0
        rows, weights = rows[keep], weights[keep]
        hits, mass = self.hits[rows], self.mass[rows] + weights
        return Update(rows, self._posterior(hits + weights, mass), self._posterior(hits, mass))

    def entries_after(self, label: int) -> np.ndarray:
        """What each point's posterior would be after one more neighbour with ``label``, an *entry* each.

        Entries [E] belong to the weights in the order of the columns, or [N] to the points where a point's weights are
        all equal; ``entries``, ``column_sums`` and ``column_maxima`` take either.
        """
        if self.even is not None:
            return self._posterior(self.hits + label * self.even, self.mass + self.even)
        rows, weights = self.columns.indices, self.columns.data
        return self._posterior(self.hits[rows] + label * weights, self.mass[rows] + weights)

    def entries(self, values: np.ndarray) -> np.ndarray:
        """A value of each point [N] as entries."""
        return values if self.even is not None else values[self.columns.indices]

    def column_sums(self, entries: np.ndarray) -> np.ndarray:
        """Sum [N] over the points that name each point as a neighbour."""
        if self._pattern is not None:
            rows = np.flatnonzero(entries)
            if 4 * len(rows) > len(self):
                return np.asarray(self._pattern @ entries)
            part = self.rows[rows]
            return np.bincount(part.indices, np.repeat(entries[rows], np.diff(part.indptr)), minlength=len(self))
        return np.asarray(csc_matrix((entries, *self._places), shape=self.columns.shape).sum(axis=0)).ravel()

    def column_maxima(self, entries: np.ndarray) -> np.ndarray:
        """Largest entry [N] over the points that name each point as a neighbour; 0 where there are none."""
        indices, starts = self._places
        values = entries[indices] if self.even is not None else entries
        largest = np.maximum.reduceat(np.append(values, 0.0), starts[:-1])
        return np.where(np.diff(starts) > 0, largest, 0.0)

    @property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        return self.columns.indices, self.columns.indptr

    def _posterior(self, hits: np.ndarray, mass: np.ndarray) -> np.ndarray:
        positive, negative = self.prior
        return np.asarray((positive + hits) / (positive + negative + mass))

    def _column(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start, stop = self.columns.indptr[index : index + 2]
        return self.columns.indices[start:stop], self.columns.data[start:stop]


def _even_weights(rows: csr_matrix) -> np.ndarray | None:
    """The weight [N] that all neighbours of a point share, None where they differ within a point."""
    sizes = np.diff(rows.indptr)
    means = np.asarray(rows.sum(axis=1)).ravel() / np.maximum(sizes, 1) if rows.nnz else np.zeros(len(sizes))
    return means if np.array_equal(np.repeat(means, sizes), rows.data) else None


def knn_weights(features: np.ndarray, k: int) -> csr_matrix:
    """Weights [N, N] of 1 for the ``k`` nearest other points (Euclidean) of every row of ``features`` [N, D].

    Raises:
        PoolError: there are not more than ``k`` points, or a feature is not finite.
    """
    points = len(features)
    if not 1 <= k < points:
        raise PoolError(f"k = {k} neighbours in a pool of {points} points: k must be from 1 to {points - 1}")
    if not np.isfinite(features).all():
        raise PoolError("a feature is not finite: drop or fill such points first")
    neighbours = cKDTree(features).query(features, k=k + 1)[1]
    own = neighbours == np.arange(points)[:, None]
    # Where more than k points coincide, a point may be missing among its own neighbours: the farthest goes instead.
    own[~own.any(axis=1), -1] = True
    columns = neighbours[~own]
    rows = np.repeat(np.arange(points), k)
    return csr_matrix((np.ones(points * k), (rows, columns)), shape=(points, points))
