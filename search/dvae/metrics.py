"""What a D-VAE is judged by: reconstruction, and the graphs that it makes of random latent vectors.

Shape legend: G graphs, L latent, Z latent vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from search.dvae.codec import DagCodec
from search.dvae.dags import DagBatch, TypedDag
from search.dvae.model import Dvae

ROWS = 2_048


@dataclass(frozen=True)
class Reconstruction:
    """``average``: share of all decoded graphs that equal their input, the paper's accuracy. ``most_frequent``: share
    of inputs that equal the graph decoded most often."""

    average: float
    most_frequent: float


@dataclass(frozen=True)
class Prior:
    """Of graphs decoded from random latent vectors, several times each.

    ``validity``: valid ones of all. ``uniqueness``: different ones of the valid. ``novelty``: of the valid, those that
    were not trained on. ``unique_per_vector``: different graphs of Z, each vector giving its most frequent valid one.
    """

    validity: float
    uniqueness: float
    novelty: float
    unique_per_vector: float


@torch.no_grad()
def decode_all(model: Dvae, z: Tensor, generator: torch.Generator) -> DagBatch:
    """One graph a row of ``z`` [Z, L], ``ROWS`` at a time."""
    return DagBatch.cat([model.decoder.sample(rows, generator) for rows in z.split(ROWS)])


def reconstruction(
    model: Dvae, codec: DagCodec, graphs: DagBatch, encodings: int = 10, decodings: int = 10, seed: int = 0
) -> Reconstruction:
    """Each graph encoded ``encodings`` times with noise, each latent vector decoded ``decodings`` times."""
    generator = torch.Generator().manual_seed(seed)
    truth = [_Canonical(codec).of(dag) for dag in graphs.dags()]
    found: list[Counter[TypedDag]] = [Counter() for _ in truth]
    canonical = _Canonical(codec)
    with torch.no_grad():
        parts = [model.encoder(graphs[i : i + ROWS]) for i in range(0, len(graphs), ROWS)]
    mean, log_variance = (torch.cat([part[i] for part in parts]) for i in range(2))
    for _ in range(encodings):
        z = model.latents(mean, log_variance, torch.randn(mean.shape, generator=generator))
        for _ in range(decodings):
            for row, dag in enumerate(canonical.all(decode_all(model, z, generator))):
                found[row][dag] += 1
    hits = sum(counts[dag] for counts, dag in zip(found, truth, strict=True))
    modes = sum(counts.most_common(1)[0][0] == dag for counts, dag in zip(found, truth, strict=True))
    return Reconstruction(hits / (len(truth) * encodings * decodings), modes / len(truth))


def scaled_prior(means: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Normal latent vectors [Z, L] with the mean and standard deviation of the training latents ``means`` [G, L]."""
    noise = torch.randn(count, means.shape[1], generator=generator)
    return means.mean(dim=0) + means.std(dim=0) * noise


def prior(
    model: Dvae, codec: DagCodec, trained: Collection[TypedDag], z: Tensor, decodings: int = 10, seed: int = 0
) -> Prior:
    """Decode ``z`` [Z, L] ``decodings`` times; ``trained`` holds the training graphs."""
    generator = torch.Generator().manual_seed(seed)
    canonical = _Canonical(codec)
    known = {codec.canonical(dag) for dag in trained}
    votes: list[Counter[TypedDag]] = [Counter() for _ in range(len(z))]
    for _ in range(decodings):
        for row, dag in enumerate(canonical.all(decode_all(model, z, generator))):
            if canonical.valid(dag):
                votes[row][dag] += 1
    counts = sum(votes, Counter())
    valid = counts.total()
    chosen = {row.most_common(1)[0][0] for row in votes if row}
    return Prior(
        valid / (len(z) * decodings),
        len(counts) / max(valid, 1),
        sum(count for dag, count in counts.items() if dag not in known) / max(valid, 1),
        len(chosen) / len(z),
    )


class _Canonical:
    """Canonical graphs of batches, each different one made and checked once."""

    def __init__(self, codec: DagCodec) -> None:
        self.codec = codec
        self._dags: dict[bytes, TypedDag] = {}
        self._valid: dict[TypedDag, bool] = {}

    def of(self, dag: TypedDag) -> TypedDag:
        return self.codec.canonical(dag)

    def all(self, batch: DagBatch) -> list[TypedDag]:
        codes = batch.codes()
        for row, code in enumerate(codes):
            if code not in self._dags:
                self._dags[code] = self.of(batch.dag(row))
        return [self._dags[code] for code in codes]

    def valid(self, dag: TypedDag) -> bool:
        if dag not in self._valid:
            self._valid[dag] = self.codec.to_values(dag) is not None
        return self._valid[dag]
