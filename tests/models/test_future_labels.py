"""Rates of the time after a row against a plain loop, and the FM that learns them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import FutureLabel
from models.encode import FeatureEncoder
from models.errors import FeatureMismatchError
from models.fm_data import fm_tensors
from models.fm_score import FmScorer
from models.fm_train import train_fm
from models.future_labels import future_rates
from tests.models.fm_world import CONFIG, HEADS, SPECS, window

row = st.tuples(
    st.integers(0, 1), st.integers(0, 2), st.integers(0, 20), st.booleans(), st.booleans(), st.sampled_from([0.5, 2.0])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(row, min_size=1, max_size=12), st.integers(1, 9))
def test_rates_equal_a_plain_loop(rows, length):
    keys = np.array([[user, item] for user, item, *_ in rows], np.int64)
    event_ts = np.array([r[2] for r in rows], np.int64)
    labels = np.array([[float(r[3])] for r in rows], np.float32)
    known = np.array([[r[4]] for r in rows])
    weight = np.array([r[5] for r in rows], np.float32)
    rates, seen = future_rates(keys, event_ts, labels, known, weight, length)
    for at, own in enumerate(rows):
        later = [o for o in rows if o[:2] == own[:2] and own[2] < o[2] <= own[2] + length and o[4]]
        total = sum(o[5] for o in later)
        assert seen[at, 0] == bool(later)
        assert rates[at, 0] == pytest.approx(sum(o[5] * o[3] for o in later) / total if later else 0.0)


def test_each_head_has_its_own_rates():
    labels, known = (
        np.array([[0, 0], [1, 0], [1, 1]], np.float32),
        np.array([[True, True], [True, False], [True, True]]),
    )
    zeros = np.zeros((3, 1), np.int64)
    rates, seen = future_rates(zeros, np.arange(3), labels, known, np.ones(3, np.float32), 5)
    assert rates.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    assert seen.tolist() == [[True, True], [True, True], [False, False]]


def test_an_fm_learns_them_beside_the_label_and_scores_as_any_other(tmp_path):
    train = CONFIG.train.model_copy(update={"epochs": 1})
    plain = CONFIG.model_copy(update={"train": train})
    future = plain.model_copy(update={"future": FutureLabel(key=["item"], window_hours=1e-4)})
    rows = window(seed=1), window(seed=2, start=10_000)
    results = [train_fm(config, SPECS, HEADS, *rows, tmp_path / str(i)) for i, config in enumerate((plain, future))]
    scorers = [FmScorer.load(result.path, result.digest) for result in results]
    assert {"fm", "codec", "future"} == set(results[1].history[0].losses)
    assert "future" not in results[0].history[0].losses
    weights = [scorer.model.fm.heads.weight for scorer in scorers]
    assert not torch.equal(*weights)
    codes, logits = scorers[1].score(rows[1].inputs)
    assert codes.shape[0] == logits.shape[0] == len(rows[1].inputs)


def test_a_key_that_is_no_column_is_named():
    rows = window(seed=1)
    encoder = FeatureEncoder.fit(rows.inputs, SPECS, 100)
    with pytest.raises(FeatureMismatchError, match=r"fm.future.key: columns \['shop'\]"):
        fm_tensors(rows, encoder, HEADS, FutureLabel(key=["shop"]))
