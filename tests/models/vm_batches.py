"""Batches of examples made by hand."""

import torch

from models.vm_data import VmBatch


def rows_only(label, weight, teacher_logit):
    """Examples without features or histories."""
    count = len(label)
    none, long = torch.zeros(count, 0), torch.zeros(count, dtype=torch.int64)
    return VmBatch(
        cat=none.long(),
        num=none,
        lists={},
        masks={},
        example_id=long,
        user=long,
        impression_id=long,
        has_impression=long.bool(),
        event_ts=long,
        slate=torch.arange(count),
        label=torch.tensor(label),
        weight=torch.tensor(weight),
        sampling_rate=torch.ones(count),
        teacher_logit=torch.tensor(teacher_logit),
        histories={},
    )
