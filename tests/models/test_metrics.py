"""Metrics against plain loops over rows, pairs and groups."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ModelConfigError
from models.metrics import (
    Scores,
    auc,
    calibration,
    evaluate,
    group_aucs,
    grouped_auc,
    normalized_entropy,
    places_of,
    same_rows,
    transfer_ratio,
)


def make_scores(seed=0, n=200, users=12, p=None, rate=None):
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(float)
    user = rng.integers(0, users, n)
    return Scores(
        example_id=rng.permutation(n).astype(np.int64),
        user=user,
        impression_id=user * 1000 + rng.integers(0, max(1, n // users // 5), n),
        has_impression=rng.random(n) < 0.9,
        event_ts=np.arange(n, dtype=np.int64),
        label=label,
        weight=rng.random(n) + 0.5,
        sampling_rate=np.ones(n) if rate is None else rate,
        p=rng.random(n).round(1) if p is None else p,
        has_history={"item": rng.random(n) < 0.5},
    )


def slow_auc(label, p, weight):
    won = total = 0.0
    for i in range(len(label)):
        for j in range(len(label)):
            if label[i] == 1 and label[j] == 0:
                pair = weight[i] * weight[j]
                total += pair
                won += pair * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    return won / total if total else math.nan


rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=40
)


@settings(max_examples=100, deadline=None)
@given(rows)
def test_auc_and_grouped_auc_equal_the_pairwise_definition(sample):
    label, p, group, weight = (np.array(column, float) for column in zip(*sample, strict=True))
    p, group = p / 4, group.astype(np.int64)
    assert auc(label, p, weight) == pytest.approx(slow_auc(label, p, weight), nan_ok=True)
    parts = {g: slow_auc(*(v[group == g] for v in (label, p, weight))) for g in np.unique(group)}
    usable = {g: value for g, value in parts.items() if not math.isnan(value)}
    for weighting in ("rows", "none"):
        got = grouped_auc(label, p, group, weighting, weight)
        sizes = [weight[group == g].sum() if weighting == "rows" else 1.0 for g in usable]
        expected = np.average(list(usable.values()), weights=sizes) if usable else math.nan
        assert got.value == pytest.approx(expected, nan_ok=True)
        assert (got.groups, got.skipped) == (len(usable), len(parts) - len(usable))
    np.testing.assert_allclose(group_aucs(label, p, group, weight).auc, [parts[g] for g in sorted(parts)])


def test_normalized_entropy_is_loss_over_entropy_of_these_rows():
    label, p, weight = np.array([1.0, 0, 0, 1]), np.array([0.9, 0.2, 0.4, 0.6]), np.array([1.0, 2, 1, 3])
    loss = -(math.log(0.9) + 2 * math.log(0.8) + math.log(0.6) + 3 * math.log(0.6)) / 7
    base = 4 / 7
    assert normalized_entropy(label, p, weight) == pytest.approx(
        loss / -(base * math.log(base) + (1 - base) * math.log(1 - base))
    )
    assert normalized_entropy(label, np.full(4, 0.5)) == pytest.approx(1.0)
    assert math.isnan(normalized_entropy(np.ones(3), np.full(3, 0.5)))
    assert math.isfinite(normalized_entropy(label, np.array([0.0, 1, 0, 1])))


def test_calibration_is_weighted_sum_of_p_over_labels():
    assert calibration(np.array([1.0, 0]), np.array([0.4, 0.2]), np.array([1.0, 3])) == pytest.approx(1.0)
    assert math.isnan(calibration(np.zeros(2), np.ones(2)))


def test_evaluate_prints_raw_and_sampling_corrected():
    scores = make_scores(n=4000, rate=None)
    label = scores.label
    rate = np.where(label == 1, 1.0, 0.25)
    corrected_rate = label.sum() / (label.sum() + (1 - label).sum() / 0.25)
    scores = Scores(**{**vars(scores), "sampling_rate": rate, "weight": 1 / rate, "p": np.full(4000, corrected_rate)})
    figures = evaluate(scores)
    assert figures["calibration"] == pytest.approx(1.0)
    assert figures["ne"] == pytest.approx(1.0)
    assert figures["calibration_raw"] == pytest.approx(corrected_rate / label.mean())
    assert figures["ne_raw"] > 1.05
    assert figures["auc"] == 0.5
    assert figures["coverage_item"] == scores.has_history["item"].mean()


def test_evaluate_of_a_slice_uses_its_own_base_rate_and_impressions():
    scores = make_scores()
    part = scores.take(scores.user < 4)
    figures = evaluate(part)
    assert figures["rows"] == (scores.user < 4).sum()
    assert figures["ne"] == pytest.approx(normalized_entropy(part.label, part.p, part.weight))
    seen = part.has_impression
    expected = grouped_auc(part.label[seen], part.p[seen], part.impression_id[seen], "none", part.weight[seen])
    assert figures["iauc"] == expected.value
    assert figures["iauc_skipped"] == expected.skipped > 0
    assert math.isnan(evaluate(scores.take(np.zeros(len(scores), bool)))["ne"])


def test_transfer_ratio_needs_three_standard_errors():
    assert transfer_ratio(0.9, 0.85, 0.8, 0.03) == pytest.approx(0.5)
    assert transfer_ratio(0.9, 0.85, 0.8, 0.034) is None
    assert transfer_ratio(0.9, 0.85, 0.95, 0.0) is None


def test_places_are_those_of_each_wanted_id():
    assert list(places_of(np.array([7, 3, 9, 1]), np.array([1, 7, 7]))) == [3, 0, 0]


def test_same_rows_aligns_and_refuses_other_rows():
    scores = make_scores()
    shuffled = scores.take(np.random.default_rng(1).permutation(len(scores)))
    a, b = same_rows(scores, shuffled)
    np.testing.assert_array_equal(a.p, b.p)
    with pytest.raises(ModelConfigError, match="same rows: got 200 and 199"):
        same_rows(scores, scores.take(np.arange(199)))
