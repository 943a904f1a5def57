"""A VM's interaction layers as a graph of blocks, each reading the input or earlier blocks (NASRec, arXiv 2207.07187).

Every block turns what it reads to a vector of its own width; the blocks that no other reads make the logit together.
A FLOP is one multiplication or one addition of a matrix product; elementwise work is not counted.

Shape legend: B examples, F fields, E embedding dim, X width of the input, U width of a block, V vectors of width E.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import GraphBlock, VmConfig
from models.errors import ModelConfigError
from models.interactions import FieldLayout, InputLinear, InteractionNetwork, Layout, VmFields, width

SPLIT = 4
"""Vectors of width E that a block's output gives to a block over fields, so that it always finds some to combine."""


class BlockReads:
    """Names and widths of what one block reads.

    ``flat``: the stretches of all inputs side by side. ``fields``: those of the input's fields, where it is read.
    ``others``: each other input apart: the input's numbers and reads together, then each earlier block.
    """

    def __init__(self, block: GraphBlock, layout: FieldLayout, widths: list[int]) -> None:
        self.sources, self.dim = block.inputs, layout.dim
        self.reads_input = 0 in block.inputs
        blocks: list[Layout] = [[(f"block {source}", widths[source - 1])] for source in block.inputs if source]
        rest: list[Layout] = [[*layout.numbers, *layout.reads]] if self.reads_input else []
        self.others = [other for other in [*rest, *blocks] if other]
        own = layout.flat if self.reads_input else []
        self.flat: Layout = [*own, *(stretch for other in blocks for stretch in other)]
        self.fields: Layout = [(f"field {name}", layout.dim) for name in layout.fields] if self.reads_input else []
        self.parts = [part for part in [own, *blocks] if part]


class BlockInput:
    """What one block reads of a batch: ``parts`` are vectors [B, ..] in the order of the reads."""

    def __init__(self, reads: BlockReads, fields: VmFields, made: list[Tensor]) -> None:
        self.blocks = [made[source - 1] for source in reads.sources if source]
        self.fields = fields if reads.reads_input else None

    def parts(self) -> list[Tensor]:
        """Each input apart, flat."""
        return [*([self.fields.flat()] if self.fields is not None else []), *self.blocks]

    def others(self) -> list[Tensor]:
        """Each input apart, the fields' embeddings left out."""
        rest = [] if self.fields is None else [torch.cat([self.fields.numbers, self.fields.reads], dim=1)]
        return [part for part in [*rest, *self.blocks] if part.shape[1]]


class Body(nn.Module):
    """Base of the blocks: ``flops`` counts one example."""

    flops: int

    def __init__(self, block: GraphBlock, reads: BlockReads, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.build(block.units, reads)

    def build(self, units: int, reads: BlockReads) -> None:
        """Make the layers and set ``flops``."""
        raise NotImplementedError

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        raise NotImplementedError

    def forward(self, given: BlockInput) -> Tensor:
        """[B, U], with dropout."""
        return self.dropout(self.mix(given))


class Dense(Body):
    """One dense layer with ReLU over all inputs."""

    def build(self, units: int, reads: BlockReads) -> None:
        """X -> U."""
        self.layer = InputLinear(reads.flat, units)
        self.flops = _linear_flops(self.layer)

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        return F.relu(self.layer(torch.cat(given.parts(), dim=1)))


class CrossLayer(Body):
    """A cross layer (DCN-V2, arXiv 2008.13535, eq. 1) over the inputs, projected to the block's width first."""

    def build(self, units: int, reads: BlockReads) -> None:
        """X -> U, U -> U."""
        self.project, self.layer = InputLinear(reads.flat, units), nn.Linear(units, units)
        self.flops = _linear_flops(self.project) + _linear_flops(self.layer)

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        x = self.project(torch.cat(given.parts(), dim=1))
        return x * self.layer(x) + x


class Gating(Body):
    """The inputs, each value scaled by a gate that reads all of them."""

    def build(self, units: int, reads: BlockReads) -> None:
        """X -> U, twice."""
        self.value, self.gate = InputLinear(reads.flat, units), InputLinear(reads.flat, units)
        self.flops = _linear_flops(self.value) + _linear_flops(self.gate)

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        x = torch.cat(given.parts(), dim=1)
        return self.value(x) * torch.sigmoid(self.gate(x))


class Sum(Body):
    """The sum of the inputs; one of another width is projected."""

    def build(self, units: int, reads: BlockReads) -> None:
        """A projection for each input that needs one."""
        self.projections = nn.ModuleList(
            nn.Identity() if width(part) == units else InputLinear(part, units, bias=False) for part in reads.parts
        )
        self.flops = sum(_linear_flops(layer) for layer in self.projections if isinstance(layer, nn.Linear))

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        parts = [layer(part) for layer, part in zip(self.projections, given.parts(), strict=True)]
        return torch.stack(parts).sum(dim=0)


class OverVectors(Body):
    """Base of blocks over vectors of one width: the fields' embeddings, and ``SPLIT`` made of each other input."""

    def make_vectors(self, reads: BlockReads) -> int:
        """Build the projections; the number V of vectors."""
        self.dim = reads.dim
        self.split = nn.ModuleList(InputLinear(other, SPLIT * reads.dim) for other in reads.others)
        self.flops = sum(_linear_flops(layer) for layer in self.split if isinstance(layer, nn.Linear))
        count = len(reads.fields) + SPLIT * len(reads.others)
        if count < 2:
            raise ModelConfigError(f"vm.graph: a block that combines vectors reads {count}; give it another input")
        return count

    def vectors(self, given: BlockInput) -> Tensor:
        """[B, V, E]."""
        made = [layer(other) for layer, other in zip(self.split, given.others(), strict=True)]
        split = [vector.view(len(vector), SPLIT, self.dim) for vector in made]
        return torch.cat([*([given.fields.embedded] if given.fields is not None else []), *split], dim=1)


class PairwiseDot(OverVectors):
    """Dot products of all pairs of vectors (DLRM, arXiv 1906.00091), then a dense layer."""

    pairs: Tensor

    def build(self, units: int, reads: BlockReads) -> None:
        """V * (V - 1) / 2 -> U."""
        count = self.make_vectors(reads)
        self.register_buffer("pairs", torch.triu_indices(count, count, offset=1), persistent=False)
        self.out = nn.Linear(self.pairs.shape[1], units)
        self.flops += 2 * count * count * self.dim + _linear_flops(self.out)

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        vectors = self.vectors(given)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        return F.relu(self.out(products[:, self.pairs[0], self.pairs[1]]))


class VectorAttention(OverVectors):
    """Single-head self-attention over the vectors with residual and LayerNorm (AutoInt, arXiv 1810.11921)."""

    def build(self, units: int, reads: BlockReads) -> None:
        """V * E -> U."""
        count, dim = self.make_vectors(reads), self.dim
        self.project, self.norm = nn.Linear(dim, 3 * dim), nn.LayerNorm(dim)
        self.out = nn.Linear(count * dim, units)
        self.flops += count * _linear_flops(self.project) + 4 * count * count * dim + _linear_flops(self.out)

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        vectors = self.vectors(given)
        query, key, value = self.project(vectors).chunk(3, dim=2)
        weights = torch.softmax(torch.bmm(query, key.transpose(1, 2)) / self.dim**0.5, dim=2)
        mixed = self.norm(vectors + torch.bmm(weights, value))
        return F.relu(self.out(mixed.flatten(1)))


BODIES: dict[str, type[Body]] = {
    "mlp": Dense,
    "cross": CrossLayer,
    "dot": PairwiseDot,
    "gating": Gating,
    "sum": Sum,
    "self_attention": VectorAttention,
}


class GraphNetwork(InteractionNetwork):
    """The blocks of ``VmConfig.graph`` in order, then a linear layer over those that no other reads.

    ``flops``: exact, of one example.
    """

    def __init__(self, config: VmConfig, layout: FieldLayout) -> None:
        super().__init__()
        widths = [block.units for block in config.graph]
        self.reads = [BlockReads(block, layout, widths) for block in config.graph]
        blocks = [BODIES[b.kind](b, reads, config.dropout) for b, reads in zip(config.graph, self.reads, strict=True)]
        self.blocks = nn.ModuleList(blocks)
        read = {source for block in config.graph for source in block.inputs}
        self.outputs = [place for place in range(len(widths)) if place + 1 not in read]
        self.out = InputLinear([(f"block {place + 1}", widths[place]) for place in self.outputs], 1, bias=False)
        self.flops = sum(block.flops for block in blocks) + _linear_flops(self.out)

    def hidden(self, fields: VmFields) -> Tensor:
        """The blocks that no other reads, side by side."""
        made: list[Tensor] = []
        for reads, block in zip(self.reads, self.blocks, strict=True):
            made.append(block(BlockInput(reads, fields, made)))
        return torch.cat([made[place] for place in self.outputs], dim=1)


def _linear_flops(layer: nn.Linear) -> int:
    return 2 * layer.in_features * layer.out_features
