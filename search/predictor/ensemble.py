"""An ensemble of small MLPs that rank configurations, one head for NE and one for FLOPs (arXiv 2311.07870, section 3).

Shape legend: N trials, W encoded width, M members, H hidden width, 2 heads (NE, FLOPs).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.errors import HistoryError
from search.parameters import Floats

HEADS = 2


@dataclass(frozen=True)
class EnsembleSettings:
    """Sizes and training of the predictors.

    Members and widths are the paper's. Its margin of .001 lets scores shrink towards 0 before they are ordered: on
    NAS-Bench-201 CIFAR-100 a margin of .1 ranks better (docs/results/search_predictor.md).
    """

    members: int = 10
    hidden: int = 50
    margin: float = 0.1
    loss: Literal["rank", "mse"] = "rank"
    steps: int = 150
    learning_rate: float = 2e-2
    weight_decay: float = 1.0


class Members(nn.Module):
    """M MLPs [W, H, H, 2] evaluated together."""

    def __init__(self, width: int, hidden: int, members: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [width, hidden, hidden, HEADS]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise(sizes):
            bound = before**-0.5
            self.weights.append((torch.rand(members, before, after, generator=generator) * 2 - 1) * bound)
            self.biases.append((torch.rand(members, 1, after, generator=generator) * 2 - 1) * bound)

    def forward(self, x: Tensor) -> Tensor:
        """[N, W] -> [M, N, 2]."""
        h = x.expand(len(self.weights[0]), *x.shape)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, F.relu(h) if layer else h, weight)
        return h


class RankEnsemble:
    """Fitted predictors: lower scores are better on both heads.

    Args:
        x: encoded configurations [N, W].
        targets: NE and FLOPs [N, 2].
        seed: of the members' weights.
        settings: sizes and training.

    Raises:
        HistoryError: fewer than two trials.
    """

    def __init__(self, x: Floats, targets: Floats, seed: int, settings: EnsembleSettings = EnsembleSettings()) -> None:
        if len(x) < 2:
            raise HistoryError(f"a predictor needs two finished trials at least; got {len(x)}")
        self.settings = settings
        self._mean, self._scale = x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
        generator = torch.Generator().manual_seed(seed)
        self.members = Members(x.shape[1], settings.hidden, settings.members, generator)
        inputs, wanted = self._inputs(x), torch.from_numpy(standardised(targets)).float()
        self._fit(inputs, wanted)
        scores = self._raw(inputs)
        self._centre, self._spread = scores.mean(dim=1, keepdim=True), scores.std(dim=1, keepdim=True).clamp(min=1e-9)

    def predict(self, x: Floats) -> Floats:
        """[N, W] -> scores [N, 2]: each member's in units of its spread over the training trials, then the mean."""
        scores = (self._raw(self._inputs(x)) - self._centre) / self._spread
        return scores.mean(dim=0).double().numpy()

    def _inputs(self, x: Floats) -> Tensor:
        return torch.from_numpy((x - self._mean) / self._scale).float()

    @torch.no_grad()
    def _raw(self, inputs: Tensor) -> Tensor:
        return self.members(inputs)

    def _fit(self, inputs: Tensor, wanted: Tensor) -> None:
        """Full-batch AdamW; every member sees every trial and differs by its first weights."""
        s = self.settings
        optimizer = torch.optim.AdamW(self.members.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, s.steps)
        loss = pairwise_loss if s.loss == "rank" else squared_loss
        for _ in range(s.steps):
            optimizer.zero_grad(set_to_none=True)
            loss(self.members(inputs), wanted, s.margin).backward()
            optimizer.step()
            schedule.step()


def pairwise_loss(scores: Tensor, wanted: Tensor, margin: float) -> Tensor:
    """Margin ranking loss over all pairs whose order is known: scores [M, N, 2], wanted [N, 2] -> sum over members."""
    total = scores.new_zeros(())
    for head in range(HEADS):
        order = torch.sign(wanted[:, None, head] - wanted[None, :, head])
        gaps = scores[:, :, None, head] - scores[:, None, :, head]
        losses = F.relu(margin - order * gaps) * order.abs()
        total = total + losses.sum(dim=(1, 2)).div(order.abs().sum().clamp(min=1)).sum()
    return total


def squared_loss(scores: Tensor, wanted: Tensor, margin: float) -> Tensor:
    """Mean squared error, summed over members; it knows no margin."""
    del margin
    return (scores - wanted).square().mean(dim=1).sum()


def standardised(values: Floats) -> Floats:
    """Columns [N, ..] of mean 0 and deviation 1; constant ones 0."""
    spread = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
