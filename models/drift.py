"""How far two sets of vectors of the same examples lie apart: a space before and after a refresh, or two spaces.

``centroid_shift`` and ``mean_cosine`` compare vectors value by value and mean something within one space only;
``linear_cka`` and ``neighbour_overlap`` see no rotation, so that they also compare spaces of other sizes.

Shape legend: N examples, A and B sizes of the vectors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NEIGHBOURS = 10


def centroid_shift(a: Floats, b: Floats) -> float:
    """1 - cosine of the mean vectors of [N, D] and [M, D]; nan where one is zero. LoopFM's alarm: about 0.01."""
    left, right = a.mean(axis=0), b.mean(axis=0)
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    return 1 - float(left @ right) / norm if norm else float("nan")


def mean_cosine(a: Floats, b: Floats) -> float:
    """Mean over examples of the cosine of their two vectors, [N, D] each; pairs with a zero vector are left out."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    return float((dots[norms > 0] / norms[norms > 0]).mean()) if (norms > 0).any() else float("nan")


def linear_cka(a: Floats, b: Floats) -> float:
    """Centred kernel alignment with linear kernels (arXiv 1905.00414, eq. 4): 1 for a rotation of the same vectors.

    [N, A] and [N, B]; nan where one set does not vary.
    """
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    cross = float(np.linalg.norm(x.T @ y) ** 2)
    own = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return cross / own if own else float("nan")


def neighbour_overlap(a: Floats, b: Floats, neighbours: int = NEIGHBOURS) -> float:
    """Mean share of an example's nearest neighbours (cosine, itself left out) that both sets agree on.

    [N, A] and [N, B], N > ``neighbours``; compares all pairs: give a sample of some thousand rows.
    """
    nearest = [_nearest(values, neighbours) for values in (a, b)]
    shared = [len(np.intersect1d(left, right)) for left, right in zip(*nearest, strict=True)]
    return float(np.mean(shared)) / neighbours


def _nearest(values: Floats, neighbours: int) -> npt.NDArray[np.int64]:
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argpartition(-similarity, neighbours - 1, axis=1)[:, :neighbours]
