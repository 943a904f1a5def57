"""The shift of the logit: what it is, and when it stays away."""

import numpy as np
import pytest

from models.calibration import logit_shift
from models.vm_score import join_scores


def scores(shift, rows=20_000, rate=-2.0, weight=1.0, seed=0):
    rng = np.random.default_rng(seed)
    logit = rng.normal(rate, 1, rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit - shift))).astype(float)
    empty = join_scores([])
    values = {name: np.zeros(rows, getattr(empty, name).dtype) for name in vars(empty) if name != "has_history"}
    values |= {"label": label, "p": 1 / (1 + np.exp(-logit)), "weight": np.full(rows, weight)}
    return type(empty)(**values)


def test_a_shift_is_found_and_brings_chances_to_the_labels():
    found = scores(0.5, weight=3.0)
    shift = logit_shift(found)
    assert shift == pytest.approx(0.5, abs=0.06)
    p = 1 / (1 + np.exp(-(np.log(found.p / (1 - found.p)) + shift)))
    assert p.sum() == pytest.approx(found.label.sum())


def test_what_rows_cannot_tell_from_noise_is_left_alone():
    assert [logit_shift(scores(0.0, seed=seed)) for seed in range(5)].count(0.0) >= 4
    assert logit_shift(scores(0.2)) != 0
    assert logit_shift(scores(0.2, rows=200)) == 0, "the same shift on a hundredth of the rows"


def test_rows_of_one_class_say_nothing():
    assert logit_shift(scores(-60.0)) == 0
    assert logit_shift(scores(60.0)) == 0
