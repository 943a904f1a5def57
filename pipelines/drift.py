"""Drift of a space's vectors from one partition to the next: a fixed FM on changing data."""

from __future__ import annotations

import math

from feature_store.spaces import SpaceRecord
from models.alignment import Floats
from models.drift import centroid_shift
from pipelines.context import RunContext
from pipelines.vectors import packed_codes, vectors


def centroid_drift(context: RunContext, space: SpaceRecord, part: str) -> float | None:
    """1 - cosine of the mean vectors of ``part`` and of the done partition before it; None without such a pair."""
    entries = context.store.ledger.coverage("fm_outputs", {"space_id": space.space_id})
    earlier = [p for p, entry in entries.items() if entry.done and entry.rows and p < part]
    if part not in entries or not entries[part].done or not entries[part].rows or not earlier:
        return None
    shift = centroid_shift(_vectors(context, space, earlier[-1]), _vectors(context, space, part))
    return None if math.isnan(shift) else shift


def _vectors(context: RunContext, space: SpaceRecord, part: str) -> Floats:
    scope = {"space_id": space.space_id}
    rows = context.store.arrow("fm_outputs", context.pin("fm_outputs", scope, [part]), scope, [part], ["z"])
    return vectors(packed_codes(rows, space), space)
