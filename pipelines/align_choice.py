"""Which kind of map between two spaces to keep: by what the target's VMs make of it, and by held-out reconstruction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from feature_store.spaces import SpaceRecord
from models.alignment import KINDS, Alignment, MapKind
from models.metrics import normalized_entropy
from pipelines.context import RunContext
from pipelines.registry import CHALLENGER, CHAMPION, RegisteredModel
from pipelines.scoring import score_parts
from pipelines.train_vm import load_trained

Quality = dict[MapKind, dict[str, float]]

NE = "vm_ne"
NE_TIE = 0.0005
"""Differences of NE under this say nothing about a map: reconstruction decides then."""


def add_vm_ne(
    context: RunContext,
    maps: Mapping[MapKind, Alignment],
    quality: Quality,
    spaces: tuple[SpaceRecord, SpaceRecord],
    parts: list[str],
    since: int,
) -> Quality:
    """``quality`` with the NE of the target's VMs that read the source's histories through each map.

    The champion of every vertical (else its challenger) scores the rows of ``parts`` from the instant ``since`` (ms)
    on whose features the source holds; the mean over verticals counts. Unchanged where there is no such VM or row.

    Args:
        context: the project.
        maps: the fitted maps.
        quality: of each kind.
        spaces: source and target.
        parts: partitions of the shared examples.
        since: event_ts of the first example that no map was fitted on.
    """
    source, target = spaces
    clock = context.dataset.clock
    done = context.store.ledger.coverage("features", {"space_id": source.space_id})
    held_out = [part for part in parts if clock.end(part) > since and part in done and done[part].done]
    models = _readers_of(context, target)
    if not held_out or not models:
        return quality
    known_at, found = clock.end(parts[-1]), dict(quality)
    for kind, alignment in maps.items():
        by_vertical = []
        for vertical, model in models.items():
            artifact = load_trained(context, model.run_id)
            scores = score_parts(context, vertical, artifact, source, held_out, known_at, alignment)
            scores = scores.take(scores.event_ts >= since)
            by_vertical.append(normalized_entropy(scores.label, scores.p, scores.weight))
        if not np.isnan(by_vertical).any():
            found[kind] = {**quality[kind], NE: float(np.mean(by_vertical))}
    return found


def best_kind(quality: Quality) -> MapKind:
    """The map of the lowest VM NE; of those within ``NE_TIE`` of it the one of the highest ``r2``.

    Without NE of every kind, reconstruction alone decides.
    """
    if all(NE in quality[kind] for kind in KINDS):
        lowest = min(quality[kind][NE] for kind in KINDS)
        tied = [kind for kind in KINDS if quality[kind][NE] <= lowest + NE_TIE]
    else:
        tied = list(KINDS)
    return max(tied, key=lambda kind: quality[kind]["r2"])


def _readers_of(context: RunContext, target: SpaceRecord) -> dict[str, RegisteredModel]:
    found = {}
    for vertical in context.dataset.heads:
        for alias in (CHALLENGER, CHAMPION):
            model = context.registry.by_alias(context.vm_name(vertical), alias)
            if model is not None and model.tags["loopfm.space"] == target.space_id:
                found[vertical] = model
    return found
