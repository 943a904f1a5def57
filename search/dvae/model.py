"""The D-VAE: encoder, decoder and loss.

Shape legend: B graphs, L latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search.dvae.config import DvaeConfig
from search.dvae.dags import DagBatch
from search.dvae.decoder import DagDecoder
from search.dvae.encoder import DagEncoder


@dataclass(frozen=True)
class Loss:
    """Means over the graphs of a batch; ``total`` = types + edges + kl_weight * kl."""

    total: Tensor
    types: Tensor
    edges: Tensor
    kl: Tensor


class Dvae(nn.Module):
    """A variational autoencoder of directed acyclic graphs (Zhang et al., arXiv 1904.11088)."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = DagEncoder(config)
        self.decoder = DagDecoder(config)

    def loss(self, batch: DagBatch, noise: Tensor) -> Loss:
        """Loss of a batch; ``noise`` [B, L] is standard normal."""
        mean, log_variance = self.encoder(batch)
        types, edges = self.decoder.losses(self.latents(mean, log_variance, noise), batch)
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)
        total = types + edges + self.config.kl_weight * kl
        return Loss(total.mean(), types.mean(), edges.mean(), kl.mean())

    def latents(self, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Latent vectors [B, L]: the noise is scaled down, as in the released code."""
        return mean + self.config.noise * noise * (0.5 * log_variance).exp()

    @torch.no_grad()
    def means(self, batch: DagBatch, rows: int = 1024) -> Tensor:
        """Latent means [B, L] of any number of graphs, ``rows`` at a time."""
        return torch.cat([self.encoder(batch[i : i + rows])[0] for i in range(0, len(batch), rows)])
