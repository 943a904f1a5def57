"""The D-VAE as a plain loop over graphs and vertices: what the batched model must equal, and what it is timed against.

It uses the parameters of a ``Dvae`` through torch's own modules; nothing of its recurrence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from search.dvae.cells import VertexCell
from search.dvae.dags import TypedDag
from search.dvae.model import Dvae


def loop_loss(model: Dvae, dags: Sequence[TypedDag], noise: Tensor) -> Tensor:
    """Mean total loss of ``dags``, ``noise`` [B, L]: graph by graph, vertex by vertex, edge by edge."""
    return torch.stack([graph_loss(model, dag, noise[i : i + 1]) for i, dag in enumerate(dags)]).mean()


def graph_loss(model: Dvae, dag: TypedDag, noise: Tensor) -> Tensor:
    """Types' cross-entropy + edges' cross-entropy + weighted KL of one graph."""
    mean, log_variance = encode(model, dag)
    z = model.latents(mean, log_variance, noise)
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return decoder_loss(model, dag, z) + model.config.kl_weight * kl


def encode(model: Dvae, dag: TypedDag) -> tuple[Tensor, Tensor]:
    """Mean and log-variance [1, L]."""
    encoder = model.encoder
    nothing = torch.zeros(1, model.config.hidden)
    children = [[v for u, v in dag.edges if u == vertex] for vertex in range(len(dag))]
    ahead = visit(encoder.forward_cell, dag, range(len(dag)), dag.parents, nothing)
    back = visit(encoder.backward_cell, dag, reversed(range(len(dag))), children, nothing)
    state = encoder.unify(torch.cat([ahead[len(dag) - 1], back[0]], dim=-1))
    return encoder.mean(state), encoder.log_variance(state)


def visit(
    cell: VertexCell, dag: TypedDag, order: Iterable[int], reads: Sequence[Sequence[int]], first: Tensor
) -> dict[int, Tensor]:
    """States [1, H] of the vertices; the first one's incoming state is ``first``, others sum what they read."""
    states: dict[int, Tensor] = {}
    messages: dict[int, Tensor] = {}
    for vertex in order:
        incoming = torch.zeros_like(first) if states else first
        for read in reads[vertex]:
            incoming = incoming + messages[read]
        states[vertex] = cell.gru(one_hot(dag.types[vertex], cell.gru.input_size), incoming)
        messages[vertex] = message(cell, states[vertex], vertex)
    return states


def message(cell: VertexCell, state: Tensor, position: int) -> Tensor:
    """sigmoid(g[h; id]) * m[h; id], [1, H]."""
    named = torch.cat([state, one_hot(position, cell.gate.in_features - cell.hidden)], dim=-1)
    return torch.sigmoid(cell.gate(named)) * cell.mapper(named)


def decoder_loss(model: Dvae, dag: TypedDag, z: Tensor) -> Tensor:
    """Cross-entropy of types and edges under teacher forcing."""
    decoder, cell = model.decoder, model.decoder.cell
    state = cell.gru(one_hot(dag.types[0], cell.gru.input_size), torch.tanh(decoder.start(z)))
    states, messages, loss = [state], [message(cell, state, 0)], torch.zeros(())
    for i in range(1, len(dag)):
        logits = decoder.type_head(torch.cat([states[-1], z], dim=-1))
        loss = loss + functional.cross_entropy(logits, torch.tensor([dag.types[i]]))
        kind, incoming = one_hot(dag.types[i], cell.gru.input_size), torch.zeros_like(state)
        state = cell.gru(kind, incoming)
        for j in reversed(range(i)):
            head = decoder.edge_head
            logit = head(head.source(states[j]), state, head.latent(z))
            truth = float((j, i) in dag.edges)
            loss = loss + functional.binary_cross_entropy_with_logits(logit, torch.full_like(logit, truth))
            if truth:
                incoming = incoming + messages[j]
                state = cell.gru(kind, incoming)
        states.append(state)
        messages.append(message(cell, state, i))
    return loss


def one_hot(index: int, size: int) -> Tensor:
    """[1, size]."""
    return functional.one_hot(torch.tensor([index]), size).float()
