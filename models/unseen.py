"""Ids read as unseen while training, so that a model has learned what to make of new ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.encode import FeatureEncoder


class SomeUnseen(nn.Module):
    """Reads a share of entities' ids as unseen while training; other categorical features, whose values are few, as
    they are. In evaluation nothing changes.

    Args:
        rate: the share, 0 .. 1.
        encoder: names the categorical features, and which of them are entities.
    """

    of_entity: Tensor

    def __init__(self, rate: float, encoder: FeatureEncoder) -> None:
        super().__init__()
        self.rate = rate
        entities = {spec.name for spec in encoder.specs if spec.entity}
        of_entity = torch.tensor([name in entities for name in encoder.categorical], dtype=torch.bool)
        self.register_buffer("of_entity", of_entity, persistent=False)

    def forward(self, cat: Tensor) -> Tensor:
        """Rows of vocabularies [B, C] (0: unseen), C features in the encoder's order."""
        if not self.training or not self.rate:
            return cat
        unseen = torch.rand(cat.shape, device=cat.device) < self.rate
        return cat.masked_fill(unseen & self.of_entity, 0)
