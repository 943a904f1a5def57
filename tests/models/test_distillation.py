"""Distillers against plain loops over rows, and where their gradients may go."""

import math

import pytest
import torch

from models.config import AdapterDistillation, HeadDistillation, LossDistillation
from models.distillation import AdapterDistiller, Distiller, HeadDistiller, make_distiller, scale_gradient
from models.losses import distillation_loss
from models.vm import VmOutput
from tests.models.vm_batches import rows_only

LOGIT = torch.tensor([0.3, -1.2, 2.0, 0.1])
LABEL = [1.0, 0.0, 1.0, 0.0]
WEIGHT = [1.0, 2.0, 0.5, 4.0]
TEACHER = [0.5, math.nan, -1.0, 3.0]
HIDDEN = torch.tensor([[0.1, -0.4], [0.7, 0.2], [-0.3, 0.5], [0.9, -0.8]])
BATCH = rows_only(LABEL, WEIGHT, TEACHER)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def bce(target, logit):
    p = sigmoid(logit)
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def linear(layer, row):
    return sum(w * x for w, x in zip(layer.weight[0].tolist(), row, strict=True)) + float(layer.bias)


def make(settings, weight=0.7):
    torch.manual_seed(0)
    return make_distiller(settings, weight, HIDDEN.shape[1])


def slow_adapter(distiller, x):
    first, _, last = distiller.adapter
    hidden = [max(0.0, float(w) * x + float(b)) for w, b in zip(first.weight[:, 0], first.bias, strict=True)]
    return x + linear(last, hidden)


def slow_loss(distiller, alpha, with_adapter):
    total = 0.0
    for row, (logit, label, weight, teacher) in enumerate(zip(LOGIT.tolist(), LABEL, WEIGHT, TEACHER, strict=True)):
        loss = bce(label, logit)
        if not math.isnan(teacher):
            hidden = HIDDEN[row].tolist()
            loss += 0.7 * bce(min(alpha * sigmoid(teacher), 1.0), linear(distiller.head, hidden))
            if with_adapter:
                adapted = slow_adapter(distiller, teacher)
                loss += 0.7 * bce(sigmoid(adapted), linear(distiller.adapted_head, hidden)) + bce(label, adapted)
        total += weight * loss
    return total / sum(WEIGHT)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.9])
def test_the_auxiliary_heads_loss_equals_a_plain_loop(alpha):
    distiller = make(HeadDistillation(alpha=alpha))
    assert distiller(VmOutput(LOGIT, HIDDEN), BATCH).item() == pytest.approx(slow_loss(distiller, alpha, False))


def test_the_adapters_loss_equals_a_plain_loop():
    distiller = make(AdapterDistillation(alpha=1.5, units=3))
    assert distiller(VmOutput(LOGIT, HIDDEN), BATCH).item() == pytest.approx(slow_loss(distiller, 1.5, True))


def test_the_serving_head_learns_from_labels_alone():
    logit = LOGIT.clone().requires_grad_()
    make(AdapterDistillation())(VmOutput(logit, HIDDEN), BATCH).backward()
    alone = LOGIT.clone().requires_grad_()
    distillation_loss(alone, BATCH.label, BATCH.weight, BATCH.teacher_logit, 0.0).backward()
    torch.testing.assert_close(logit.grad, alone.grad)


@pytest.mark.parametrize("settings", [HeadDistillation, AdapterDistillation])
def test_beta_scales_the_gradient_into_the_shared_layers_only(settings):
    def gradients(beta):
        distiller, hidden = make(settings(beta=beta)), HIDDEN.clone().requires_grad_()
        distiller(VmOutput(LOGIT, hidden), BATCH).backward()
        return hidden.grad, distiller.head.weight.grad

    (whole, head), (third, same_head), (none, _) = gradients(1.0), gradients(1 / 3), gradients(0.0)
    assert whole[[0, 2, 3]].abs().min() > 0
    assert (whole[1] == 0).all()
    torch.testing.assert_close(third, whole / 3)
    torch.testing.assert_close(head, same_head)
    assert (none == 0).all()


def test_the_heads_never_move_the_adapter():
    def adapter_gradient(weight):
        distiller = make(AdapterDistillation(), weight)
        distiller(VmOutput(LOGIT, HIDDEN), BATCH).backward()
        return [p.grad for p in distiller.adapter.parameters()]

    for few, much in zip(adapter_gradient(0.01), adapter_gradient(100.0), strict=True):
        torch.testing.assert_close(few, much)


def test_the_adapter_corrects_a_teacher_that_has_grown_stale():
    torch.manual_seed(0)
    true = torch.randn(4000) * 1.5
    label = torch.bernoulli(true.sigmoid())
    stale = 0.5 * true + 1.2
    batch = rows_only(label.tolist(), [1.0] * len(label), stale.tolist())
    distiller = make(AdapterDistillation())
    optimizer = torch.optim.Adam(distiller.parameters(), lr=3e-2)
    for _ in range(150):
        optimizer.zero_grad()
        distiller(VmOutput(torch.zeros(len(label)), torch.zeros(len(label), 2)), batch).backward()
        optimizer.step()
    with torch.no_grad():
        before, after = ((logit.sigmoid() - true.sigmoid()).abs().mean() for logit in (stale, distiller.adapt(stale)))
    assert after < 0.2 * before


def test_weight_zero_needs_no_layers_and_the_plain_loss_is_as_it_was():
    for settings in (HeadDistillation(), AdapterDistillation(), LossDistillation()):
        assert not list(make(settings, 0.0).parameters())
    plain = make(LossDistillation())
    assert type(plain) is Distiller
    expected = distillation_loss(LOGIT, BATCH.label, BATCH.weight, BATCH.teacher_logit, 0.7)
    assert torch.equal(plain(VmOutput(LOGIT, HIDDEN), BATCH), expected)
    assert type(make(HeadDistillation())) is HeadDistiller
    assert type(make(AdapterDistillation())) is AdapterDistiller


def test_a_scaled_gradient_keeps_the_values():
    values = torch.randn(5, requires_grad=True)
    scaled = scale_gradient(values, 0.25)
    torch.testing.assert_close(scaled, values)
    scaled.sum().backward()
    torch.testing.assert_close(values.grad, torch.full((5,), 0.25))
