"""The loss of a VM: true labels, and the FM's logit beside them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation_loss(logit: Tensor, label: Tensor, weight: Tensor, teacher_logit: Tensor, kd_weight: float) -> Tensor:
    """L = BCE(y) + kd_weight * BCE(sigmoid(teacher)), the second on rows with a teacher (method section 1.4).

    All tensors [B]; ``teacher_logit`` is nan where there is none; such a row has the first term only. Rows count by
    ``weight``, and the sum is divided by the weight of the whole batch. Returns a scalar.
    """
    losses = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    if kd_weight > 0:
        taught = ~teacher_logit.isnan()
        target = torch.where(taught, teacher_logit, torch.zeros_like(teacher_logit)).sigmoid()
        losses = losses + kd_weight * taught * F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    return (weight * losses).sum() / weight.sum()
