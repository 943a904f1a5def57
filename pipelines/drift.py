"""Drift of a space's vectors from one partition to the next: a fixed FM on changing data."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from feature_store.spaces import SpaceRecord
from models.codec import unpack
from pipelines.context import RunContext


def centroid_drift(context: RunContext, space: SpaceRecord, part: str) -> float | None:
    """1 - cosine of the mean vectors of ``part`` and of the done partition before it; None without such a pair."""
    entries = context.store.ledger.coverage("fm_outputs", {"space_id": space.space_id})
    earlier = [p for p, entry in entries.items() if entry.done and entry.rows and p < part]
    if part not in entries or not entries[part].done or not entries[part].rows or not earlier:
        return None
    a, b = (_centroid(context, space, p) for p in (earlier[-1], part))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return None if norm == 0 else 1 - float(a @ b) / norm


def _centroid(context: RunContext, space: SpaceRecord, part: str) -> np.ndarray:
    scope = {"space_id": space.space_id}
    rows = context.store.arrow("fm_outputs", context.pin("fm_outputs", scope, [part]), scope, [part], ["z"])
    packed = b"".join(rows["z"].cast(pa.binary()).to_pylist())
    codes = np.frombuffer(packed, np.uint8).reshape(-1, space.code_bytes)
    return np.asarray(unpack(codes, space.bits), np.float64).mean(axis=0)
