"""Training with several processes (torchrun): sums over processes, so that the result is that of one process.

Every function is the identity in a single process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """This process's ``rank`` among ``world`` processes."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started (gloo on CPU, nccl on GPUs); alone without torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Return once every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes."""
    if dist.is_initialized():
        value = value.detach().clone()
        dist.all_reduce(value)
    return value


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all processes, in one call."""
    if not dist.is_initialized():
        return
    owned = list(parameters)
    for parameter in owned:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in owned if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def gather_rows(rows: Tensor, processes: Processes, total: int) -> Tensor:
    """All rows of all processes: process r holds rows r, r + world, .. of ``total``. [n, ..] -> [total, ..]."""
    if processes.world == 1:
        return rows
    most = -(-total // processes.world)
    padded = torch.zeros(most, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in range(processes.world)]
    dist.all_gather(gathered, padded)
    return torch.stack(gathered, dim=1).flatten(0, 1)[:total]
