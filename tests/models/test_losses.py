"""The loss against its formula, and where its gradient may go."""

import math

import pytest
import torch

from models.losses import distillation_loss

LOGIT = torch.tensor([0.3, -1.2, 2.0, 0.1])
LABEL = torch.tensor([1.0, 0.0, 1.0, 0.0])
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 4.0])
TEACHER = torch.tensor([0.5, math.nan, -1.0, math.nan])


def bce(target, logit):
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def test_loss_is_the_weighted_sum_of_both_terms():
    expected = 0.0
    for logit, label, weight, teacher in zip(*(t.tolist() for t in (LOGIT, LABEL, WEIGHT, TEACHER)), strict=True):
        expected += weight * bce(label, logit)
        if not math.isnan(teacher):
            expected += 0.7 * weight * bce(1 / (1 + math.exp(-teacher)), logit)
    assert distillation_loss(LOGIT, LABEL, WEIGHT, TEACHER, 0.7).item() == pytest.approx(expected / 7.5, rel=1e-6)


def test_distillation_moves_only_rows_with_a_teacher():
    def gradient(kd_weight):
        logit = LOGIT.clone().requires_grad_()
        distillation_loss(logit, LABEL, WEIGHT, TEACHER, kd_weight).backward()
        return logit.grad

    changed = (gradient(0.7) - gradient(0.0)).abs() > 1e-7
    assert changed.tolist() == [True, False, True, False]
    assert gradient(0.7).isfinite().all()


def test_a_row_of_twice_the_weight_counts_twice():
    twice = [torch.cat([t, t[3:]]) for t in (LOGIT, LABEL, WEIGHT, TEACHER)]
    heavier = [LOGIT, LABEL, WEIGHT * torch.tensor([1, 1, 1, 2]), TEACHER]
    assert distillation_loss(*twice, 0.3).item() == pytest.approx(distillation_loss(*heavier, 0.3).item())
