"""Interaction layers of VMs over embedded features, numbers and what the history readers give.

Shape legend: B examples, F fields, E embedding dim, D numbers, R width of all reads, X = F * E + D + R.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import VmConfig

Layout = list[tuple[str, int]]
"""Names and widths of the stretches that a vector is made of, in order: a warm start moves weights by name."""


class VmFields(NamedTuple):
    """``embedded`` [B, F, E]; ``first_order`` [B, F] or None; ``numbers`` [B, D]; ``reads`` [B, R] (R may be 0)."""

    embedded: Tensor
    first_order: Tensor | None
    numbers: Tensor
    reads: Tensor

    def flat(self) -> Tensor:
        """[B, X]."""
        return torch.cat([self.embedded.flatten(1), self.numbers, self.reads], dim=1)


class FieldLayout(NamedTuple):
    """Names of the fields, and the stretches of numbers and reads."""

    fields: list[str]
    dim: int
    numbers: Layout
    reads: Layout

    @property
    def flat(self) -> Layout:
        """Of ``VmFields.flat``."""
        return [*((f"field {name}", self.dim) for name in self.fields), *self.numbers, *self.reads]


def width(layout: Layout) -> int:
    """Summed widths."""
    return sum(size for _, size in layout)


class InputLinear(nn.Linear):
    """A linear layer whose inputs (and outputs, where given) are named stretches."""

    def __init__(self, layout: Layout, out: int | Layout, bias: bool = True) -> None:
        self.out_layout = None if isinstance(out, int) else out
        super().__init__(width(layout), out if isinstance(out, int) else width(out), bias)
        self.layout = layout


class DenseTower(nn.Module):
    """Dense layers with ReLU and dropout; ``bias`` false gives 0 at 0."""

    def __init__(self, layout: Layout, units: list[int], dropout: float, bias: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [InputLinear(layout, units[0], bias)]
        for before, after in pairwise(units):
            layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(before, after, bias)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """[B, X] -> [B, units[-1]]."""
        return self.layers(x)


class InteractionNetwork(nn.Module):
    """Base of the networks: shared layers up to ``hidden``, then the serving head, whose output layer is ``out``."""

    out: nn.Linear

    @property
    def hidden_width(self) -> int:
        """Width of ``hidden``."""
        return self.out.in_features

    def hidden(self, fields: VmFields) -> Tensor:
        """[B, hidden_width]: what every head reads."""
        raise NotImplementedError

    def head(self, hidden: Tensor, fields: VmFields) -> Tensor:
        """Logit [B], less the model's bias, from the hidden vector of the same fields."""
        del fields
        return self.out(hidden).squeeze(1)

    def forward(self, fields: VmFields) -> Tensor:
        """Logit [B], less the model's bias."""
        return self.head(self.hidden(fields), fields)


class MlpNetwork(InteractionNetwork):
    """Dense layers over everything."""

    def __init__(self, config: VmConfig, layout: FieldLayout) -> None:
        super().__init__()
        self.tower = DenseTower(layout.flat, config.units, config.dropout)
        self.out = nn.Linear(config.units[-1], 1, bias=False)

    def hidden(self, fields: VmFields) -> Tensor:
        """The tower's last layer."""
        return self.tower(fields.flat())


class DeepFmNetwork(MlpNetwork):
    """Dense layers beside a factorisation machine over the fields and numbers (DeepFM, arXiv 1703.04247)."""

    def __init__(self, config: VmConfig, layout: FieldLayout) -> None:
        super().__init__(config, layout)
        numbers = width(layout.numbers)
        self.number_factors = InputLinear(layout.numbers, layout.dim, bias=False) if numbers else None
        self.number_weights = InputLinear(layout.numbers, 1, bias=False) if numbers else None
        if self.number_factors is not None:
            nn.init.normal_(self.number_factors.weight, std=0.05)

    def head(self, hidden: Tensor, fields: VmFields) -> Tensor:
        """The tower's logit and those of the factorisation machine."""
        total, squares = fields.embedded.sum(dim=1), fields.embedded.square().sum(dim=1)
        logit = super().head(hidden, fields)
        if fields.first_order is not None:
            logit = logit + fields.first_order.sum(dim=1)
        if self.number_factors is not None and self.number_weights is not None:
            total = total + self.number_factors(fields.numbers)
            squares = squares + fields.numbers.square() @ self.number_factors.weight.square().T
            logit = logit + self.number_weights(fields.numbers).squeeze(1)
        return logit + 0.5 * (total.square() - squares).sum(dim=1)


class DcnNetwork(InteractionNetwork):
    """Cross layers beside dense ones, joined by the output layer (DCN-V2, arXiv 2008.13535, parallel)."""

    CROSS_LAYERS = 2

    def __init__(self, config: VmConfig, layout: FieldLayout) -> None:
        super().__init__()
        flat = layout.flat
        self.cross = nn.ModuleList(InputLinear(flat, flat) for _ in range(self.CROSS_LAYERS))
        self.tower = DenseTower(flat, config.units, config.dropout)
        self.out = InputLinear([*flat, ("tower", config.units[-1])], 1, bias=False)

    def hidden(self, fields: VmFields) -> Tensor:
        """The last cross layer beside the tower's."""
        start = x = fields.flat()
        for layer in self.cross:
            x = start * layer(x) + x
        return torch.cat([x, self.tower(start)], dim=1)


class DlrmNetwork(InteractionNetwork):
    """Pairwise dot products of the fields and of the numbers' tower, then dense layers (DLRM, arXiv 1906.00091)."""

    pairs: Tensor

    def __init__(self, config: VmConfig, layout: FieldLayout) -> None:
        super().__init__()
        names = list(layout.fields)
        self.bottom = None
        if width(layout.numbers):
            self.bottom = DenseTower(layout.numbers, [config.units[0], layout.dim], config.dropout)
            names.append("numbers")
        pairs = torch.triu_indices(len(names), len(names), offset=1)
        self.register_buffer("pairs", pairs, persistent=False)
        products = [(f"{names[a]} x {names[b]}", 1) for a, b in pairs.T.tolist()]
        fields = [(f"field {name}", layout.dim) for name in names]
        self.top = DenseTower([*fields, *products, *layout.reads], config.units, config.dropout)
        self.out = nn.Linear(config.units[-1], 1, bias=False)

    def hidden(self, fields: VmFields) -> Tensor:
        """The top tower's last layer."""
        vectors = fields.embedded
        if self.bottom is not None:
            vectors = torch.cat([vectors, self.bottom(fields.numbers)[:, None]], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([vectors.flatten(1), products, fields.reads], dim=1))


NETWORKS = {"mlp": MlpNetwork, "deepfm": DeepFmNetwork, "dcn": DcnNetwork, "dlrm": DlrmNetwork}
