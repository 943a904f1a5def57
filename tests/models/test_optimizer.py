"""Decay touches embeddings and nothing else."""

from __future__ import annotations

import torch
from torch import nn

from models.config import TrainConfig
from models.embedding import EmbeddingTable
from models.optimizer import make_optimizer


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = EmbeddingTable({"user": 4}, 2)
        self.embedding = nn.Embedding(4, 2)
        self.dense = nn.Linear(2, 1)


def after_one_step(decay: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, TrainConfig(learning_rate=0.1, embedding_decay=decay))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return before, dict(model.state_dict())


def test_embeddings_decay_by_their_share_of_the_learning_rate() -> None:
    before, after = after_one_step(decay=2.0)
    for name in ("table.weight", "embedding.weight"):
        torch.testing.assert_close(after[name], before[name] * (1 - 0.1 * 2.0))
    assert torch.equal(after["dense.weight"], before["dense.weight"])


def test_no_decay_is_the_default() -> None:
    before, after = after_one_step(decay=TrainConfig().embedding_decay)
    assert all(torch.equal(after[name], value) for name, value in before.items())
