"""Interaction blocks that an FM stacks, each layer's activation capturable by name.

Every block maps ``(x, fields)`` to ``(x, fields)`` and lists its layers' activations. Shapes: x [N, K] the flat vector,
fields [N, F, E] the F embeddings.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import INPUT, Block, CrossBlock, DotBlock, MlpBlock, SelfAttentionBlock
from models.errors import ModelConfigError

BlockOutput = tuple[Tensor, Tensor, list[Tensor]]


class InteractionBlock(nn.Module):
    """Base of the blocks: ``width`` is K after the block, ``capture_widths`` the width of each layer's activation."""

    width: int
    capture_widths: list[int]

    def forward(self, x: Tensor, fields: Tensor) -> BlockOutput:
        """(x [N, K], fields [N, F, E]) -> (x, fields, activations of the layers)."""
        raise NotImplementedError


class Mlp(InteractionBlock):
    """Dense layers with ReLU and dropout."""

    def __init__(self, settings: MlpBlock, width: int) -> None:
        super().__init__()
        sizes = [width, *settings.units]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(settings.dropout)
        self.width, self.capture_widths = sizes[-1], sizes[1:]

    def forward(self, x: Tensor, fields: Tensor) -> BlockOutput:
        """Activations are taken before dropout."""
        captured = []
        for layer in self.layers:
            activation = F.relu(layer(x))
            captured.append(activation)
            x = self.dropout(activation)
        return x, fields, captured


class Cross(InteractionBlock):
    """DCN-V2 (arXiv 2008.13535, eq. 1): x_{l+1} = x_0 * (W x_l + b) + x_l, W of low rank where one is given."""

    def __init__(self, settings: CrossBlock, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_cross_weight(width, settings.rank) for _ in range(settings.layers))
        self.width, self.capture_widths = width, [width] * settings.layers

    def forward(self, x: Tensor, fields: Tensor) -> BlockOutput:
        """Activations are the x_l from l = 1 on."""
        start, captured = x, []
        for layer in self.layers:
            x = start * layer(x) + x
            captured.append(x)
        return x, fields, captured


class Dot(InteractionBlock):
    """Pairwise dot products of the fields, beside x (DLRM, arXiv 1906.00091)."""

    pairs: Tensor

    def __init__(self, width: int, fields: int) -> None:
        super().__init__()
        self.register_buffer("pairs", torch.triu_indices(fields, fields, offset=1), persistent=False)
        self.width = width + fields * (fields - 1) // 2
        self.capture_widths = [self.width]

    def forward(self, x: Tensor, fields: Tensor) -> BlockOutput:
        """The one activation is x with the products appended."""
        products = torch.bmm(fields, fields.transpose(1, 2))
        x = torch.cat([x, products[:, self.pairs[0], self.pairs[1]]], dim=1)
        return x, fields, [x]


class FieldAttention(InteractionBlock):
    """Multi-head self-attention over the fields with residual and LayerNorm (AutoInt, arXiv 1810.11921), beside x."""

    def __init__(self, settings: SelfAttentionBlock, width: int, fields: int, dim: int) -> None:
        super().__init__()
        if dim % settings.heads:
            raise ModelConfigError(f"blocks: self_attention heads={settings.heads} must divide embedding_dim={dim}")
        self.heads = settings.heads
        self.projections = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(settings.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(settings.layers))
        self.width, self.capture_widths = width + fields * dim, [fields * dim] * settings.layers

    def forward(self, x: Tensor, fields: Tensor) -> BlockOutput:
        """Activations are the flat fields after each layer; the last is appended to x."""
        captured = []
        n, count, dim = fields.shape
        for projection, norm in zip(self.projections, self.norms, strict=True):
            split = projection(fields).view(n, count, 3, self.heads, dim // self.heads)
            query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(query, key, value)
            fields = norm(fields + mixed.transpose(1, 2).reshape(n, count, dim))
            captured.append(fields.flatten(1))
        return torch.cat([x, captured[-1]], dim=1), fields, captured


class InteractionStack(nn.Module):
    """Named blocks in order. Captures: ``input`` (x before the first block) and ``NAME.i``, layer i of block NAME.

    Args:
        blocks: name -> settings.
        width: K of the input x.
        fields: number F of fields.
        dim: width E of a field.
    """

    def __init__(self, blocks: dict[str, Block], width: int, fields: int, dim: int) -> None:
        super().__init__()
        self.names = list(blocks)
        self.capture_widths = {INPUT: width}
        self.blocks = nn.ModuleList()
        for name, settings in blocks.items():
            block = _build(settings, width, fields, dim)
            self.capture_widths |= {f"{name}.{layer}": size for layer, size in enumerate(block.capture_widths)}
            self.blocks.append(block)
            width = block.width
        self.width = width

    def forward(self, x: Tensor, fields: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(x [N, K], fields [N, F, E]) -> (last x, every activation by capture name)."""
        captured = {INPUT: x}
        for name, block in zip(self.names, self.blocks, strict=True):
            x, fields, layers = block(x, fields)
            captured |= {f"{name}.{layer}": activation for layer, activation in enumerate(layers)}
        return x, captured


def _build(settings: Block, width: int, fields: int, dim: int) -> InteractionBlock:
    if isinstance(settings, MlpBlock):
        return Mlp(settings, width)
    if isinstance(settings, CrossBlock):
        return Cross(settings, width)
    if isinstance(settings, DotBlock):
        return Dot(width, fields)
    return FieldAttention(settings, width, fields, dim)


def _cross_weight(width: int, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
