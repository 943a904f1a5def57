"""How the FM's chance teaches a VM: in the VM's own loss, through an auxiliary head, or by way of a student adapter.

A further way, or another loss altogether, is a subclass of ``Distiller`` of a team's own (docs/extending.md).

A distiller lives while a VM trains; the VM that is saved and served has none of its layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import AdapterDistillation, Distillation, HeadDistillation, OwnLoss
from models.losses import distillation_loss
from models.own_code import own_class
from models.vm import VmOutput
from models.vm_data import VmBatch


class Distiller(nn.Module):
    """Base, and the kind ``loss``: L = BCE(y) + w * BCE(y_F), both on the serving logit (method section 1.4).

    Args:
        weight: w; 0 leaves the labels alone.
        hidden_width: of ``VmOutput.hidden``, the vector that heads read.
    """

    def __init__(self, weight: float, hidden_width: int) -> None:
        super().__init__()
        self.weight, self.hidden_width = weight, hidden_width

    def forward(self, output: VmOutput, batch: VmBatch) -> Tensor:
        """The training loss of a batch, a scalar."""
        logit = output.logit.float()
        return distillation_loss(logit, batch.label, batch.weight, batch.teacher_logit, self.weight)


class HeadDistiller(Distiller):
    """L = BCE(y_S, y) + w * BCE(y_D, min(alpha * y_F, 1)); y_D is a linear head on the shared layers' last vector.

    The gradient of y_D into the shared layers is scaled by beta, that into its own weights is not (ExFM, arXiv
    2502.17494, auxiliary head). Rows without a teacher have the first term only.

    Args:
        settings: alpha and beta.
        weight: w.
        hidden_width: of the vector that heads read.
    """

    def __init__(self, settings: HeadDistillation | AdapterDistillation, weight: float, hidden_width: int) -> None:
        super().__init__(weight, hidden_width)
        self.alpha, self.beta = settings.alpha, settings.beta
        self.head = nn.Linear(hidden_width, 1)

    def forward(self, output: VmOutput, batch: VmBatch) -> Tensor:
        """The training loss of a batch, a scalar."""
        target = (self.alpha * batch.teacher_logit.sigmoid()).clamp(max=1.0)
        taught = self._taught(self.head, target, output, batch)
        return self._labels(output.logit, batch) + self.weight * taught

    def _labels(self, logit: Tensor, batch: VmBatch) -> Tensor:
        return weighted_bce(logit, batch.label, batch.weight, batch.weight.sum())

    def _taught(self, head: nn.Linear, target: Tensor, output: VmOutput, batch: VmBatch) -> Tensor:
        logit = head(scale_gradient(output.hidden, self.beta)).squeeze(1)
        return weighted_bce(logit, target, batch.weight, batch.weight.sum())


class AdapterDistiller(HeadDistiller):
    """The auxiliary head's loss + w * BCE(y_A, sg(sigmoid(a))) + BCE(a, y); y_A is a second head, a = MLP(y_F).

    The adapter learns what the FM's chance means for the newest labels, so that a stale teacher is corrected before it
    teaches; no gradient of the heads reaches it, and none of its own reaches the VM (ExFM, arXiv 2502.17494, student
    adapter). It reads y_F as a logit, which spreads rare events out, and starts at that logit.
    """

    def __init__(self, settings: AdapterDistillation, weight: float, hidden_width: int) -> None:
        super().__init__(settings, weight, hidden_width)
        self.adapted_head = nn.Linear(hidden_width, 1)
        self.adapter = nn.Sequential(nn.Linear(1, settings.units), nn.ReLU(), nn.Linear(settings.units, 1))

    def adapt(self, teacher_logit: Tensor) -> Tensor:
        """FM's logit [B] -> corrected logit [B]; nan stays nan."""
        return teacher_logit + self.adapter(teacher_logit[:, None]).squeeze(1)

    def forward(self, output: VmOutput, batch: VmBatch) -> Tensor:
        """The training loss of a batch, a scalar."""
        taught = batch.teacher_logit.isfinite()
        known = torch.where(taught, batch.teacher_logit, 0.0)
        adapted = self.adapt(known)
        target = torch.where(taught, adapted.detach().sigmoid(), torch.nan)
        own = weighted_bce(adapted, torch.where(taught, batch.label, torch.nan), batch.weight, batch.weight.sum())
        return (
            super().forward(output, batch) + self.weight * self._taught(self.adapted_head, target, output, batch) + own
        )


def weighted_bce(logit: Tensor, target: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Sum of weight * BCE over the rows whose target is known, over ``total``. All [B], unknown: nan; a scalar."""
    known = target.isfinite()
    losses = F.binary_cross_entropy_with_logits(logit.float(), torch.where(known, target, 0.0), reduction="none")
    return (losses * weight * known).sum() / total


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values; a gradient that comes back through them is multiplied by ``factor``. Any shape."""
    return values * factor + values.detach() * (1 - factor)


def make_distiller(settings: Distillation, weight: float, hidden_width: int) -> Distiller:
    """The distiller of ``settings``; weight 0 needs no layers of a built-in kind.

    Raises:
        ModelConfigError: a team's own cannot be imported, or is no ``Distiller``.
    """
    if isinstance(settings, OwnLoss):
        return own_class(settings.load, Distiller, "distillation.load")(weight, hidden_width)
    if weight > 0 and isinstance(settings, HeadDistillation):
        return HeadDistiller(settings, weight, hidden_width)
    if weight > 0 and isinstance(settings, AdapterDistillation):
        return AdapterDistiller(settings, weight, hidden_width)
    return Distiller(weight, hidden_width)
