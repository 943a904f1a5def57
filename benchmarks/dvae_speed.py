"""Training steps of the D-VAE, batched over graphs and as a plain loop over graphs, vertices and edges.

Both take the same batches, each once, in turns. Nothing is extrapolated: with as many batches as an epoch has, the
seconds are those of an epoch. They are of the processor, so that other work on the machine meets neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.peers.dvae_loop import loop_loss
from search.dvae.config import DvaeConfig
from search.dvae.dags import DagBatch, TypedDag
from search.dvae.model import Dvae


def training_seconds(config: DvaeConfig, dags: Sequence[TypedDag], batch_size: int, batches: int) -> dict[str, float]:
    """``batched`` and ``loop`` seconds of a training step with Adam on each batch, and how many ``batches`` there were.

    Fewer than asked for where ``dags`` end; the last batch may be smaller.
    """
    ours, theirs = Dvae(config), Dvae(config)
    theirs.load_state_dict(ours.state_dict())
    step, loop_step = _Steps(ours), _Steps(theirs)
    starts = range(0, len(dags), batch_size)[:batches]
    for start in starts:
        chosen = dags[start : start + batch_size]
        batch, noise = DagBatch.of(chosen, config.max_vertices), torch.randn(len(chosen), config.latent)
        step(lambda: ours.loss(batch, noise).total)  # noqa: B023 (called at once)
        loop_step(lambda: loop_loss(theirs, chosen, noise))  # noqa: B023 (called at once)
    return {"batched": step.seconds, "loop": loop_step.seconds, "batches": len(starts)}


class _Steps:
    """Seconds of all steps of one optimiser."""

    def __init__(self, model: Dvae) -> None:
        self.optimizer, self.seconds = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True), 0.0

    def __call__(self, loss: Callable[[], torch.Tensor]) -> None:
        start = time.process_time()
        self.optimizer.zero_grad()
        loss().backward()
        self.optimizer.step()
        self.seconds += time.process_time() - start
