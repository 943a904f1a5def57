"""The decoder: type by type and edge by edge, with nothing masked.

Shape legend: B graphs, N positions, H state, L latent, T vertex types, P = N (N - 1) / 2 pairs of positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from search.dvae.cells import VertexCell
from search.dvae.config import DvaeConfig
from search.dvae.dags import END, START, DagBatch


class EdgeHead(nn.Module):
    """Logit of an edge u -> v from both states and the latent vector: two layers, the first one split by its inputs."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        self.source = nn.Linear(config.hidden, config.hidden, bias=False)
        self.target = nn.Linear(config.hidden, config.hidden, bias=False)
        self.latent = nn.Linear(config.latent, config.hidden)
        self.last = nn.Linear(config.hidden, 1)

    def forward(self, source: Tensor, target: Tensor, latent: Tensor) -> Tensor:
        """``self.source`` of u's state, the state of v and ``self.latent`` of z, [..., H] each -> logits [...]."""
        return self.last(torch.relu(source + self.target(target) + latent)).squeeze(-1)


class DagDecoder(nn.Module):
    """Decoder of arXiv 1904.11088, section 3.3 and algorithm 1.

    The type of vertex i follows from the state of vertex i - 1; edges into i are decided for j = i - 1 .. 0, and the
    state of i is computed again after each. Unlike the released code, both heads also see z itself (a vertex's state
    may have forgotten it), no type and no edge is forced, and END's edges are decided like any other's.
    """

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        self.config = config
        self.start = nn.Linear(config.latent, config.hidden)
        self.cell = VertexCell(config.types, config.max_vertices, config.hidden)
        self.type_head = nn.Sequential(
            nn.Linear(config.hidden + config.latent, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.types)
        )
        self.edge_head = EdgeHead(config)
        targets, sources = torch.tril_indices(config.max_vertices, config.max_vertices, -1)
        later = torch.arange(config.max_vertices) > sources[:, None]
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("sources", sources, persistent=False)
        self.register_buffer("later", later.float(), persistent=False)

    targets: Tensor
    sources: Tensor
    later: Tensor

    def losses(self, z: Tensor, batch: DagBatch) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy of types and of edges under teacher forcing, [B] each, START's type excepted.

        The true graph gives all final states; then the states between two edge decisions are those of pairs (i, j):
        i reading its true predecessors above j. All P pairs of all graphs are one batch.
        """
        order = list(range(batch.types.shape[1]))
        states, messages = self.cell.propagate(batch.types, batch.adjacency.mT, order, torch.tanh(self.start(z)))
        return self._type_losses(z, states, batch), self._edge_losses(z, states, messages, batch)

    def _type_losses(self, z: Tensor, states: Tensor, batch: DagBatch) -> Tensor:
        before = states[:-1]
        logits = self.type_head(torch.cat([before, z.expand(len(before), -1, -1)], dim=-1))
        losses = functional.cross_entropy(logits.permute(1, 2, 0), batch.types[:, 1:], reduction="none")
        exists = torch.arange(1, batch.types.shape[1]) < batch.sizes[:, None]
        return (losses * exists).sum(dim=1)

    def _edge_losses(self, z: Tensor, states: Tensor, messages: Tensor, batch: DagBatch) -> Tensor:
        cell, head = self.cell, self.edge_head
        above = batch.adjacency.mT[:, self.targets] * self.later
        incoming = torch.bmm(above, messages.transpose(0, 1))
        gates = torch.bmm(above, cell.gates(messages).transpose(0, 1))
        partial = cell.step(cell.inputs(batch.types)[:, self.targets], incoming, gates)
        logits = head(head.source(states).transpose(0, 1)[:, self.sources], partial, head.latent(z)[:, None])
        truth = batch.adjacency[:, self.sources, self.targets]
        losses = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return (losses * (self.targets < batch.sizes[:, None])).sum(dim=1)

    @torch.no_grad()
    def sample(self, z: Tensor, generator: torch.Generator) -> DagBatch:
        """Graphs of latent vectors [B, L], types and edges drawn from the model; a graph ends with its first END.

        One that has none is cut at ``max_vertices``.
        """
        B, N = len(z), self.config.max_vertices
        types = torch.full((B, N), END)
        adjacency, sizes = torch.zeros(B, N, N), torch.ones(B, dtype=torch.int64)
        types[:, 0] = START
        growing = torch.ones(B, dtype=torch.bool)
        latent, first = self.edge_head.latent(z), torch.tanh(self.start(z))
        state = self.cell.step(self.cell.inputs(types[:, 0]), first, self.cell.gates(first))
        placed: list[_Placed] = []
        for i in range(1, N):
            placed.append(self._place(state, i - 1))
            chosen = _draw(self.type_head(torch.cat([state, z], dim=-1)), generator)
            types[growing, i] = chosen[growing]
            state, edges = self._sample_edges(chosen, placed, latent, generator)
            adjacency[:, :i, i] = edges * growing[:, None]
            sizes += growing
            growing &= chosen != END
            if not growing.any():
                break
        return DagBatch(types, adjacency, sizes)

    def _place(self, state: Tensor, position: int) -> _Placed:
        message = self.cell.message(state, position)
        return _Placed(message, self.cell.gates(message), self.edge_head.source(state))

    def _sample_edges(
        self, types: Tensor, placed: list[_Placed], latent: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Edges into the next vertex from all before it: its final state [B, H] and the edges [B, i]."""
        inputs = self.cell.inputs(types)
        incoming, gates = torch.zeros_like(placed[0].message), torch.zeros_like(placed[0].gates)
        state, edges = self.cell.step(inputs, incoming, gates), []
        for source in reversed(placed):
            logit = self.edge_head(source.head, state, latent)
            edge = (torch.rand(logit.shape, generator=generator) < torch.sigmoid(logit)).float()
            incoming = torch.addcmul(incoming, edge[:, None], source.message)
            gates = torch.addcmul(gates, edge[:, None], source.gates)
            state = self.cell.step(inputs, incoming, gates)
            edges.append(edge)
        return state, torch.stack(edges[::-1], dim=1)


@dataclass(frozen=True)
class _Placed:
    """What later vertices need of one: its message [B, H], the message's gates [B, 3H], its part of the edge head."""

    message: Tensor
    gates: Tensor
    head: Tensor


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One class a row of ``logits`` [B, T]."""
    return torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=generator).squeeze(1)
