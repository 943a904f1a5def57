"""Embedding tables: all vocabularies of a VM as one matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EMBEDDING_STD = 0.05


class EmbeddingTable(nn.Module):
    """One table for all vocabularies, so that all fields of a batch are one gather.

    Args:
        tables: vocabulary -> rows; row 0 of each (unseen ids) starts at zero.
        dim: width of an embedding.
        first_order: its last value is a weight of first order, which starts at zero.
    """

    def __init__(self, tables: dict[str, int], dim: int, first_order: bool = False) -> None:
        super().__init__()
        self.tables = tables
        starts = [0, *torch.tensor(list(tables.values())).cumsum(0).tolist()]
        self.starts = dict(zip(tables, starts, strict=False))
        self.weight = nn.Parameter(torch.randn(max(1, starts[-1]), dim) * EMBEDDING_STD)
        with torch.no_grad():
            self.weight[torch.tensor(list(self.starts.values()), dtype=torch.int64)] = 0.0
            self.weight[:, dim - first_order :] = 0.0

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of the whole table [..] -> [.., dim]."""
        return nn.functional.embedding(rows, self.weight)
