"""Ids read as unseen while training: new ids get a trained row, scores never change."""

from __future__ import annotations

import torch

from models.config import VmConfig
from models.vm import VerticalModel


def indices(rate: float, training: bool) -> torch.Tensor:
    model = VerticalModel.__new__(VerticalModel)
    torch.nn.Module.__init__(model)
    model.config = VmConfig(unseen_rate=rate)
    model.train(training)
    torch.manual_seed(0)
    return model._some_unseen(torch.ones(20_000, 2, dtype=torch.int64))


def test_the_declared_share_is_read_as_unseen() -> None:
    assert abs((indices(0.3, training=True) == 0).float().mean().item() - 0.3) < 0.02


def test_scoring_reads_every_id() -> None:
    assert indices(0.3, training=False).min() == 1
    assert indices(0.0, training=True).min() == 1
