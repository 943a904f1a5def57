"""The recurrence over topological positions, with its gradient written out.

Autograd over single positions spends its time on small slices and on adding weight gradients position by position; here
a weight's gradient is one product over all positions and graphs at the end.

Shape legend: N positions in the order visited, B graphs, H state; gates [.., 3H] are reset, update, new (torch's GRU).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Gates(NamedTuple):
    """What a GRU step computed: reset, update and new [.., H], and the recurrent part of new before reset [.., H]."""

    reset: Tensor
    update: Tensor
    new: Tensor
    recurrent: Tensor


def gru_step(inputs: Tensor, state: Tensor, gates: Tensor) -> tuple[Tensor, Gates]:
    """One GRU step [.., H] from ``inputs`` [.., 3H], the incoming ``state`` [.., H] and its ``gates`` [.., 3H]."""
    cut = 2 * state.shape[-1]
    reset, update = torch.add(inputs[..., :cut], gates[..., :cut]).sigmoid_().chunk(2, dim=-1)
    recurrent = gates[..., cut:]
    new = torch.addcmul(inputs[..., cut:], reset, recurrent).tanh_()
    return torch.lerp(new, state, update), Gates(reset, update, new, recurrent)


def gru_gradient(gradient: Tensor, state: Tensor, step: Gates) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of a step's result [.., H] -> those of ``inputs`` [.., 3H], ``state`` [.., H] and ``gates`` [.., 3H]."""
    reset, update, new, recurrent = step
    kept = gradient * update
    slope = torch.addcmul(torch.ones_like(new), new, new, value=-1).mul_(gradient - kept)
    to_reset = (slope * recurrent).mul_(reset).mul_(1 - reset)
    to_update = (state - new).mul_(kept).mul_(1 - update)
    return (
        torch.cat([to_reset, to_update, slope], dim=-1),
        kept,
        torch.cat([to_reset, to_update, slope * reset], dim=-1),
    )


class GruStep(torch.autograd.Function):
    """``gru_step`` with ``gru_gradient``."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, state: Tensor, gates: Tensor) -> Tensor:
        """States [.., H]."""
        result, step = gru_step(inputs, state, gates)
        ctx.save_for_backward(state, *step)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the three inputs."""
        state, *step = ctx.saved_tensors
        return gru_gradient(gradient, state, Gates(*step))


class Recurrence(torch.autograd.Function):
    """States and messages of all positions.

    Inputs: ``inputs`` [N, B, 3H]; ``reads`` [N, B, N], lower triangular in its first and last dimension; ``first``
    [B, H], the incoming state of position 0; ``hidden`` [3H, H] and ``hidden_bias`` [3H] of the GRU; ``message``
    [2H, H] and ``message_bias`` [N, 2H], gate then mapper. Results: states and messages, [N, B, H] each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        reads: Tensor,
        first: Tensor,
        hidden: Tensor,
        hidden_bias: Tensor,
        message: Tensor,
        message_bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Visit the positions in order."""
        N, B, H = *inputs.shape[:2], first.shape[1]
        states, messages, incoming = (inputs.new_empty(N, B, H) for _ in range(3))
        incoming[0] = first
        steps, gates, mapped = [], [], []
        for i in range(N):
            if i:
                torch.bmm(reads[i, :, None, :i], messages[:i].transpose(0, 1), out=incoming[i].unsqueeze(1))
            states[i], step = gru_step(inputs[i], incoming[i], torch.addmm(hidden_bias, incoming[i], hidden.t()))
            gate, value = torch.addmm(message_bias[i], states[i], message.t()).chunk(2, dim=-1)
            torch.mul(gate.sigmoid_(), value, out=messages[i])
            steps.append(step)
            gates.append(gate)
            mapped.append(value)
        ctx.save_for_backward(reads, hidden, message, states, incoming)
        ctx.steps, ctx.gates, ctx.mapped = steps, gates, mapped
        return states, messages

    @staticmethod
    def backward(ctx: Any, to_states: Tensor, to_messages: Tensor) -> tuple[Tensor | None, ...]:
        """Visit the positions in reverse, then sum each weight's gradient over all of them at once."""
        reads, hidden, message, states, incoming = ctx.saved_tensors
        N, B, H = states.shape
        to_messages = to_messages.clone(memory_format=torch.contiguous_format)
        to_inputs, to_gates = (states.new_empty(N, B, 3 * H) for _ in range(2))
        to_pairs = states.new_empty(N, B, 2 * H)
        to_incoming = states.new_empty(B, H)
        for i in reversed(range(N)):
            gate, value = ctx.gates[i], ctx.mapped[i]
            torch.mul(to_messages[i] * value, gate * (1 - gate), out=to_pairs[i, :, :H])
            torch.mul(to_messages[i], gate, out=to_pairs[i, :, H:])
            gradient = torch.addmm(to_states[i], to_pairs[i], message)
            to_inputs[i], kept, to_gates[i] = gru_gradient(gradient, incoming[i], ctx.steps[i])
            to_incoming = torch.addmm(kept, to_gates[i], hidden)
            if i:
                to_messages[:i].addcmul_(reads[i, :, :i].t().unsqueeze(-1), to_incoming)
        flat = to_gates.flatten(0, 1)
        pairs = to_pairs.flatten(0, 1)
        return (
            to_inputs,
            None,
            to_incoming,
            flat.t() @ incoming.flatten(0, 1),
            flat.sum(dim=0),
            pairs.t() @ states.flatten(0, 1),
            to_pairs.sum(dim=1),
        )
