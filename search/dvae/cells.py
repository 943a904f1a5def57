"""Asynchronous message passing over batches of graphs: one step a topological position, all graphs at once.

Shape legend: B graphs, N positions, H state, T vertex types.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from search.dvae.recurrence import GruStep, Recurrence


class VertexCell(nn.Module):
    """h_v = GRU(onehot(type_v), sum over predecessors u of sigmoid(g[h_u; id_u]) * m[h_u; id_u]).

    arXiv 1904.11088, equations 3 to 5; id_u is the one-hot position of u. A *message* of u is its term of the sum.
    """

    def __init__(self, types: int, positions: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gru = nn.GRUCell(types, hidden)
        self.gate = nn.Linear(hidden + positions, hidden)
        self.mapper = nn.Linear(hidden + positions, hidden, bias=False)
        self._spread()

    @torch.no_grad()
    def _spread(self) -> None:
        """Start from states that tell types and positions apart, and messages that keep their size over many edges.

        A one-hot input has one entry that is not 0, so its weights need a standard deviation near 1. torch's default
        (uniform within 1 / sqrt(H)) makes all vertices look alike: training then stands still for thousands of steps.
        """
        cut = self.hidden
        nn.init.normal_(self.gru.weight_ih)
        nn.init.normal_(self.gate.weight[:, cut:])
        nn.init.normal_(self.mapper.weight[:, cut:], std=0.5)
        # A gate that is half open halves a message.
        nn.init.orthogonal_(self.mapper.weight[:, :cut], gain=2.0)
        for gate in self.gru.weight_hh.chunk(3):
            nn.init.orthogonal_(gate)

    def inputs(self, types: Tensor) -> Tensor:
        """Types [...] -> the part of the GRU's gates that they give [..., 3H]."""
        return functional.embedding(types, self.gru.weight_ih.t()) + self.gru.bias_ih

    def message(self, state: Tensor, position: int) -> Tensor:
        """States [B, H] of the vertices at ``position`` -> messages [B, H]."""
        weight, bias = self._message_weights()
        gate, mapped = functional.linear(state, weight, bias[position]).chunk(2, dim=-1)
        return torch.sigmoid(gate) * mapped

    def gates(self, incoming: Tensor) -> Tensor:
        """Incoming states [..., H] -> the GRU's recurrent gates before their bias [..., 3H]; linear in the sum."""
        return functional.linear(incoming, self.gru.weight_hh)

    def step(self, inputs: Tensor, incoming: Tensor, gates: Tensor) -> Tensor:
        """``inputs`` [..., 3H], incoming states [..., H] and their ``gates`` [..., 3H] -> states [..., H]."""
        return GruStep.apply(inputs, incoming, gates + self.gru.bias_hh)

    def propagate(self, types: Tensor, reads: Tensor, order: list[int], first: Tensor) -> tuple[Tensor, Tensor]:
        """Visit the positions in ``order``.

        Args:
            types: [B, N].
            reads: [B, N, N], 1 at [b, v, u] where v reads u; u comes before v in ``order``.
            order: every position once.
            first: incoming state of the position visited first, [B, H].

        Returns:
            States and messages, [N, B, H] each, by place in ``order``.
        """
        weight, bias = self._message_weights()
        return Recurrence.apply(
            self.inputs(types.t()[order]),
            reads.transpose(0, 1)[order][..., order],
            first,
            self.gru.weight_hh,
            self.gru.bias_hh,
            weight,
            bias[order],
        )

    def _message_weights(self) -> tuple[Tensor, Tensor]:
        """Gate and mapper as one product: weights [2H, H] and the bias of each position [N, 2H]."""
        cut = self.hidden
        weight = torch.cat([self.gate.weight[:, :cut], self.mapper.weight[:, :cut]])
        gate = self.gate.weight[:, cut:] + self.gate.bias[:, None]
        return weight, torch.cat([gate, self.mapper.weight[:, cut:]]).t()
