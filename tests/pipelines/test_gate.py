"""The gate's verdicts and their reasons."""

from __future__ import annotations

import numpy as np
import pytest

from models.metrics import Scores
from pipelines.config import GateConfig
from pipelines.gate import decide

GATE = GateConfig(min_positives=100, bootstrap=100)


def scores(noise: float, shift: float = 0.0, rows: int = 4000, seed: int = 0) -> Scores:
    """Rows of 200 users whose true logit is known; ``noise`` blurs the model's, ``shift`` breaks its calibration."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1.5, 1.0, rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    own = logit + np.random.default_rng(seed + 1).normal(0, noise, rows) + shift
    ids, ones = np.arange(rows), np.ones(rows)
    return Scores(ids, ids % 200, ids // 10, np.ones(rows, bool), ids, label, ones, ones, 1 / (1 + np.exp(-own)))


def test_a_better_challenger_passes() -> None:
    result = decide(GATE, scores(0.0), scores(1.0))
    assert result.verdict == "passed"
    assert result.metrics["ne_high"] < 0


def test_a_worse_challenger_fails_with_the_bound() -> None:
    result = decide(GATE, scores(1.0), scores(0.0))
    assert result.verdict == "failed"
    assert any("upper bound" in reason and "margin" in reason for reason in result.reasons)


def test_too_few_positives_hold_whatever_the_figures() -> None:
    result = decide(GATE.model_copy(update={"min_positives": 10_000}), scores(1.0), scores(0.0))
    assert result.verdict == "hold"
    assert "gate.min_positives asks for 10000" in result.reasons[0]


@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_a_miscalibrated_challenger_fails_even_when_it_is_the_first(shift: float) -> None:
    result = decide(GATE, scores(0.0, shift), None)
    assert result.verdict == "failed"
    assert "calibration" in result.reasons[0]


def test_the_first_calibrated_model_passes() -> None:
    assert decide(GATE, scores(0.0), None).verdict == "passed"
