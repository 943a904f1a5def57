"""A loss of one's own: focal loss on the labels, beside distillation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillation import Distiller, weighted_bce
from models.vm import VmOutput
from models.vm_data import VmBatch

GAMMA = 2.0


class FocalLoss(Distiller):
    """(1 - p of the true label)^2 * BCE (arXiv 1708.02002, eq. 4) + w * BCE against the FM's chance."""

    def forward(self, output: VmOutput, batch: VmBatch) -> Tensor:
        """The training loss of a batch, a scalar."""
        logit, total = output.logit.float(), batch.weight.sum()
        losses = F.binary_cross_entropy_with_logits(logit, batch.label, reduction="none")
        focal = ((1 - torch.exp(-losses)) ** GAMMA * losses * batch.weight).sum() / total
        return focal + self.weight * weighted_bce(logit, batch.teacher_logit.sigmoid(), batch.weight, total)
