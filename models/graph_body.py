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

    @property
    def vectors(self) -> int:
        """V: the fields, and ``SPLIT`` made of each other input."""
        return len(self.fields) + SPLIT * len(self.others)

    @property
    def split_flops(self) -> int:
        """Of making vectors of the other inputs."""
        return sum(_product(width(other), SPLIT * self.dim) for other in self.others)


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
    """Base of the blocks."""

    def __init__(self, block: GraphBlock, reads: BlockReads, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.build(block.units, reads)

    @staticmethod
    def flops(units: int, reads: BlockReads) -> int:
        """Of one example, from the widths alone: a search counts many graphs that it never builds."""
        raise NotImplementedError

    def build(self, units: int, reads: BlockReads) -> None:
        """Make the layers."""
        raise NotImplementedError

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        raise NotImplementedError

    def forward(self, given: BlockInput) -> Tensor:
        """[B, U], with dropout."""
        return self.dropout(self.mix(given))


class Dense(Body):
    """One dense layer with ReLU over all inputs."""

    @staticmethod
    def flops(units: int, reads: BlockReads) -> int:
        """See ``Body.flops``."""
        return _product(width(reads.flat), units)

    def build(self, units: int, reads: BlockReads) -> None:
        """X -> U."""
        self.layer = InputLinear(reads.flat, units)

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        return F.relu(self.layer(torch.cat(given.parts(), dim=1)))


class CrossLayer(Body):
    """A cross layer (DCN-V2, arXiv 2008.13535, eq. 1) over the inputs, projected to the block's width first."""

    @staticmethod
    def flops(units: int, reads: BlockReads) -> int:
        """See ``Body.flops``."""
        return _product(width(reads.flat), units) + _product(units, units)

    def build(self, units: int, reads: BlockReads) -> None:
        """X -> U, U -> U."""
        self.project, self.layer = InputLinear(reads.flat, units), nn.Linear(units, units)

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        x = self.project(torch.cat(given.parts(), dim=1))
        return x * self.layer(x) + x


class Gating(Body):
    """The inputs, each value scaled by a gate that reads all of them."""

    @staticmethod
    def flops(units: int, reads: BlockReads) -> int:
        """See ``Body.flops``."""
        return 2 * _product(width(reads.flat), units)

    def build(self, units: int, reads: BlockReads) -> None:
        """X -> U, twice."""
        self.value, self.gate = InputLinear(reads.flat, units), InputLinear(reads.flat, units)

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        x = torch.cat(given.parts(), dim=1)
        return self.value(x) * torch.sigmoid(self.gate(x))


class Sum(Body):
    """The sum of the inputs; one of another width is projected."""

    @staticmethod
    def flops(units: int, reads: BlockReads) -> int:
        """See ``Body.flops``."""
        return sum(_product(width(part), units) for part in reads.parts if width(part) != units)

    def build(self, units: int, reads: BlockReads) -> None:
        """A projection for each input that needs one."""
        self.projections = nn.ModuleList(
            nn.Identity() if width(part) == units else InputLinear(part, units, bias=False) for part in reads.parts
        )

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
        count = reads.vectors
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

    @staticmethod
    def flops(units: int, reads: BlockReads) -> int:
        """See ``Body.flops``."""
        count = reads.vectors
        return reads.split_flops + 2 * count * count * reads.dim + _product(count * (count - 1) // 2, units)

    def build(self, units: int, reads: BlockReads) -> None:
        """V * (V - 1) / 2 -> U."""
        count = self.make_vectors(reads)
        self.register_buffer("pairs", torch.triu_indices(count, count, offset=1), persistent=False)
        self.out = nn.Linear(self.pairs.shape[1], units)

    def mix(self, given: BlockInput) -> Tensor:
        """[B, U]."""
        vectors = self.vectors(given)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        return F.relu(self.out(products[:, self.pairs[0], self.pairs[1]]))


class VectorAttention(OverVectors):
    """Single-head self-attention over the vectors with residual and LayerNorm (AutoInt, arXiv 1810.11921)."""

    @staticmethod
    def flops(units: int, reads: BlockReads) -> int:
        """See ``Body.flops``."""
        count, dim = reads.vectors, reads.dim
        attention = count * _product(dim, 3 * dim) + 4 * count * count * dim
        return reads.split_flops + attention + _product(count * dim, units)

    def build(self, units: int, reads: BlockReads) -> None:
        """V * E -> U."""
        count, dim = self.make_vectors(reads), self.dim
        self.project, self.norm = nn.Linear(dim, 3 * dim), nn.LayerNorm(dim)
        self.out = nn.Linear(count * dim, units)

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
    """The blocks of ``VmConfig.graph`` in order, then a linear layer over those that no other reads."""

    def __init__(self, config: VmConfig, layout: FieldLayout) -> None:
        super().__init__()
        self.reads = _reads(config.graph, layout)
        blocks = [BODIES[b.kind](b, reads, config.dropout) for b, reads in zip(config.graph, self.reads, strict=True)]
        self.blocks = nn.ModuleList(blocks)
        self.outputs = _outputs(config.graph)
        stretches = [(f"block {place + 1}", config.graph[place].units) for place in self.outputs]
        self.out = InputLinear(stretches, 1, bias=False)

    def hidden(self, fields: VmFields) -> Tensor:
        """The blocks that no other reads, side by side."""
        made: list[Tensor] = []
        for reads, block in zip(self.reads, self.blocks, strict=True):
            made.append(block(BlockInput(reads, fields, made)))
        return torch.cat([made[place] for place in self.outputs], dim=1)


def graph_flops(graph: list[GraphBlock], layout: FieldLayout) -> int:
    """Exact, of one example in the ``GraphNetwork`` of these blocks, which is not built."""
    reads = _reads(graph, layout)
    blocks = sum(BODIES[block.kind].flops(block.units, read) for block, read in zip(graph, reads, strict=True))
    return blocks + _product(sum(graph[place].units for place in _outputs(graph)), 1)


def _reads(graph: list[GraphBlock], layout: FieldLayout) -> list[BlockReads]:
    widths = [block.units for block in graph]
    return [BlockReads(block, layout, widths) for block in graph]


def _outputs(graph: list[GraphBlock]) -> list[int]:
    """Places of the blocks that no other reads."""
    read = {source for block in graph for source in block.inputs}
    return [place for place in range(len(graph)) if place + 1 not in read]


def _product(inputs: int, outputs: int) -> int:
    """FLOPs of one vector times a matrix."""
    return 2 * inputs * outputs
