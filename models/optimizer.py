"""The optimiser of every model."""

from __future__ import annotations

import torch
from torch import nn

from models.config import TrainConfig
from models.embedding import EmbeddingTable


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.AdamW:
    """Adam, with decoupled decay (arXiv 1711.05101) of embeddings alone: it is rare ids that overfit first."""
    tables = [module for module in model.modules() if isinstance(module, EmbeddingTable | nn.Embedding)]
    embedded = [parameter for table in tables for parameter in table.parameters()]
    known = {id(parameter) for parameter in embedded}
    dense = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [{"params": embedded, "weight_decay": settings.embedding_decay}, {"params": dense, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)
