"""Which kind of map between two spaces to keep: by what the target's VMs make of it, and by held-out reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class HeldOut:
    """Rows that no map was fitted on: those of ``parts`` from the instant ``since`` (ms) on.

    Their labels are those known when the last of ``parts`` closes.
    """

    parts: list[str]
    since: int

    def of(self, context: RunContext, space: SpaceRecord) -> HeldOut:
        """Those of them whose features ``space`` holds."""
        clock, done = context.dataset.clock, context.store.ledger.coverage("features", {"space_id": space.space_id})
        parts = [p for p in self.parts if clock.end(p) > self.since and p in done and done[p].done]
        return HeldOut(parts, self.since)

    def ne(
        self,
        context: RunContext,
        runs: Mapping[str, str],
        space: SpaceRecord,
        alignment: Alignment | None = None,
    ) -> dict[str, float]:
        """NE of each vertical's VM on these rows, with the histories of ``space``; ``alignment`` maps them.

        Args:
            context: the project.
            runs: by vertical, the run that trained the VM.
            space: whose features and histories are read.
            alignment: from ``space`` to the VM's own.
        """
        if not self.parts:
            return {}
        known_at, found = context.dataset.clock.end(self.parts[-1]), {}
        for vertical, run_id in runs.items():
            artifact = load_trained(context, run_id)
            scores = score_parts(context, vertical, artifact, space, self.parts, known_at, alignment)
            scores = scores.take(scores.event_ts >= self.since)
            found[vertical] = normalized_entropy(scores.label, scores.p, scores.weight)
        return found


def add_vm_ne(
    context: RunContext,
    maps: Mapping[MapKind, Alignment],
    quality: Quality,
    spaces: tuple[SpaceRecord, SpaceRecord],
    held_out: HeldOut,
) -> Quality:
    """``quality`` with the NE of the target's VMs that read the source's histories through each map.

    The champion of every vertical (else its challenger) scores the held-out rows whose features the source holds; the
    mean over verticals counts. Unchanged where there is no such VM or row.

    Args:
        context: the project.
        maps: the fitted maps.
        quality: of each kind.
        spaces: source and target.
        held_out: rows that no map was fitted on.
    """
    source, target = spaces
    runs, rows, found = run_ids(readers_of(context, target)), held_out.of(context, source), dict(quality)
    for kind, alignment in maps.items():
        by_vertical = list(rows.ne(context, runs, source, alignment).values())
        if by_vertical and not np.isnan(by_vertical).any():
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


def readers_of(context: RunContext, space: SpaceRecord) -> dict[str, RegisteredModel]:
    """The champion of each vertical, else its challenger, where it reads ``space``."""
    found = {}
    for vertical in context.dataset.heads:
        for alias in (CHALLENGER, CHAMPION):
            model = context.registry.by_alias(context.vm_name(vertical), alias)
            if model is not None and model.tags["loopfm.space"] == space.space_id:
                found[vertical] = model
    return found


def run_ids(models: Mapping[str, RegisteredModel]) -> dict[str, str]:
    """The run that trained each vertical's model."""
    return {vertical: model.run_id for vertical, model in models.items()}
