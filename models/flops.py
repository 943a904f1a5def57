"""FLOPs of a VM, counted while it scores: multiplications and additions of every matrix product it really makes."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.vm import VerticalModel
from models.vm_data import VmBatch


def flops_per_example(model: VerticalModel, batch: VmBatch) -> float:
    """Mean over the examples of ``batch``, whose histories set the readers' share."""
    was_training = model.training
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(batch)
    model.train(was_training)
    return float(counter.get_total_flops()) / len(batch)
