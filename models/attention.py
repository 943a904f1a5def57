"""Attention pooling of a list of embeddings by a query."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MASKED = -1e4


class DotTargetAttention(nn.Module):
    """Multi-head dot attention of a candidate over its user's past events (the target attention of arXiv 1706.06978,
    with dot scores in place of an MLP's).

    Each head projects the query only: (W_k^T W_q q) . e equals the usual projected score, at a cost that does not grow
    with the list. A learned weight on the (scaled) age of an event lets a head prefer recent ones.

    Args:
        dim: width E of query and events.
        heads: number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, heads * dim, bias=False)
        self.age = nn.Parameter(torch.zeros(heads))
        self.out = nn.Linear(heads * dim, dim)

    def forward(self, query: Tensor, events: Tensor, mask: Tensor, age: Tensor | None = None) -> Tensor:
        """query [N, E], events [N, L, E], mask bool [N, L], age [N, L] or None -> [N, E]; zeros pooled where empty."""
        n, dim = query.shape
        projected = self.query(query).view(n, self.heads, dim) * dim**-0.5
        scores = torch.bmm(projected, events.transpose(1, 2))
        if age is not None:
            scores = scores + self.age[None, :, None] * age[:, None, :]
        scores = scores.masked_fill(~mask[:, None, :], _MASKED)
        weights = scores.softmax(dim=-1) * mask[:, None, :]
        return self.out(torch.bmm(weights.to(events.dtype), events).flatten(1))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """values [N, L, E], mask bool [N, L] -> [N, E]: the mean of the elements that are there; 0 where there are none."""
    weights = mask.to(values.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1.0)
    return torch.bmm(weights[:, None, :], values).squeeze(1)
