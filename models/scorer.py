"""Whatever FM a file holds, ready to score."""

from __future__ import annotations

from pathlib import Path

import torch

from models.checkpoint import artifact_kind
from models.external_fm import EXTERNAL_KIND, ExternalScorer
from models.fm_score import FmScorer

Scorer = FmScorer | ExternalScorer


def load_scorer(
    path: str | Path, digest: str | None = None, *, threads: int | None = None, device: str = "cpu"
) -> Scorer:
    """Load the project's own FM or an external one; ``threads`` sets the thread count of this process's torch.

    An external FM puts itself on a device.

    Raises:
        ArtifactError: the file is missing, no FM, or its digest is not ``digest``.
    """
    if artifact_kind(path) != EXTERNAL_KIND:
        return FmScorer.load(path, digest, threads=threads, device=device)
    if threads is not None:
        torch.set_num_threads(threads)
    return ExternalScorer.load(path, digest)
