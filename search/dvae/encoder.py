"""The encoder: forward and backward message passing, then a normal distribution over latent vectors.

Shape legend: B graphs, H state, L latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.dvae.cells import VertexCell
from search.dvae.config import DvaeConfig
from search.dvae.dags import DagBatch


class DagEncoder(nn.Module):
    """Bidirectional encoder of arXiv 1904.11088, section 3.2: END's forward state beside START's backward state."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        self.hidden = config.hidden
        self.forward_cell = VertexCell(config.types, config.max_vertices, config.hidden)
        self.backward_cell = VertexCell(config.types, config.max_vertices, config.hidden)
        self.unify = nn.Linear(2 * config.hidden, config.hidden)
        self.mean = nn.Linear(config.hidden, config.latent)
        self.log_variance = nn.Linear(config.hidden, config.latent)

    def forward(self, batch: DagBatch) -> tuple[Tensor, Tensor]:
        """Means and log-variances, [B, L] each."""
        rows, order = torch.arange(len(batch)), list(range(batch.types.shape[1]))
        nothing = batch.adjacency.new_zeros(len(batch), self.hidden)
        ahead, _ = self.forward_cell.propagate(batch.types, batch.adjacency.mT, order, nothing)
        back, _ = self.backward_cell.propagate(batch.types, batch.adjacency, order[::-1], nothing)
        state = self.unify(torch.cat([ahead[batch.sizes - 1, rows], back[-1]], dim=-1))
        return self.mean(state), self.log_variance(state)
