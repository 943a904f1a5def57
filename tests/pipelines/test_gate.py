"""The gate's verdicts and their reasons."""

from __future__ import annotations

import re
from dataclasses import replace

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


def level_and_taste() -> tuple[Scores, Scores]:
    """A model that knows each user's level but not what the user likes, and one that knows just the latter."""
    rng, rows = np.random.default_rng(0), scores(0.0)
    level, taste = rng.normal(0, 2, 200)[rows.user], rng.normal(0, 1, len(rows))
    label = (rng.random(len(rows)) < 1 / (1 + np.exp(1.5 - level - taste))).astype(np.float64)
    knows_level, knows_taste = (replace(rows, label=label, p=1 / (1 + np.exp(1.5 - known))) for known in (level, taste))
    return knows_level, knows_taste


def test_a_challenger_that_gains_ne_but_loses_gauc_fails_with_the_bound() -> None:
    result = decide(GATE, *level_and_taste())
    assert result.verdict == "failed"
    assert result.metrics["ne_high"] < 0
    assert len(result.reasons) == 1
    assert re.fullmatch(r"gAUC difference -0\.\d{4}, lower bound -0\.\d{4} < -0\.0050", result.reasons[0])
    assert decide(GATE.model_copy(update={"gauc_margin": 1.0}), *level_and_taste()).verdict == "passed"


def test_an_undefined_gauc_holds_and_says_so_but_hides_no_failure() -> None:
    better, worse = (replace(s, user=s.example_id) for s in (scores(0.0), scores(1.0)))
    result = decide(GATE, better, worse)
    assert str(result) == "hold: gAUC is undefined: no user has examples of both labels"
    assert sorted(result.metrics) == ["calibration", "ne_difference", "ne_high", "positives"]
    failed = decide(GATE, worse, better)
    assert failed.verdict == "failed"
    assert any("upper bound" in reason for reason in failed.reasons)


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
