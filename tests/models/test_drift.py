"""Drift figures against plain loops, and what each must not see."""

import math

import numpy as np
import pytest

from models.drift import centroid_shift, linear_cka, mean_cosine, neighbour_overlap

RNG = np.random.default_rng(0)
A = RNG.normal(size=(60, 4)) + 1.0


def rotated(values, size=None):
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(size or values.shape[1], values.shape[1])))
    return values @ basis.T


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_centroid_and_cosine_equal_plain_loops():
    b = A + RNG.normal(size=A.shape) * 0.3
    means = [[sum(row[d] for row in values) / len(values) for d in range(4)] for values in (A, b)]
    assert centroid_shift(A, b) == pytest.approx(1 - cosine(*means))
    assert mean_cosine(A, b) == pytest.approx(sum(cosine(x, y) for x, y in zip(A, b, strict=True)) / len(A))
    assert centroid_shift(A, 3 * A) == pytest.approx(0, abs=1e-12)
    assert math.isnan(centroid_shift(A, np.zeros_like(A)))


def test_cka_equals_its_definition_by_gram_matrices():
    b = np.concatenate([A**2, RNG.normal(size=(60, 2))], axis=1)
    centre = np.eye(60) - 1 / 60
    k, h = centre @ A @ A.T @ centre, centre @ b @ b.T @ centre
    expected = np.trace(k @ h) / math.sqrt(np.trace(k @ k) * np.trace(h @ h))
    assert linear_cka(A, b) == pytest.approx(expected)


def test_rotation_and_size_of_the_space_change_neither_cka_nor_neighbours():
    wider = rotated(A, 7)
    assert wider.shape == (60, 7)
    assert linear_cka(A, wider) == pytest.approx(1)
    assert neighbour_overlap(A, wider, 5) == 1
    assert mean_cosine(A, rotated(A)) < 0.9


def test_unrelated_vectors_share_few_neighbours():
    a, b = RNG.normal(size=(2, 400, 8))
    assert neighbour_overlap(a, b, 10) == pytest.approx(10 / 399, abs=0.02)
    assert linear_cka(a, b) < 0.1


def test_neighbours_equal_a_plain_loop():
    b = A + RNG.normal(size=A.shape) * 0.5
    total = 0
    for row in range(len(A)):
        near = []
        for values in (A, b):
            others = [other for other in range(len(A)) if other != row]
            near.append(set(sorted(others, key=lambda other: -cosine(values[row], values[other]))[:3]))
        total += len(near[0] & near[1])
    assert neighbour_overlap(A, b, 3) == pytest.approx(total / 3 / len(A))
