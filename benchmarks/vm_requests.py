"""Requests to a VM made up in memory: rows of table ``features`` and the histories that they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from benchmarks.harness import BenchmarkError
from feature_store.clocks import HOUR_MS
from models.encode import FeatureEncoder
from models.vm_data import HistoryKey, VmInputs
from models.vm_encoder import VmEncoder
from pipelines.config import ProjectConfig
from pipelines.specs import vm_specs

NOW = 1_767_225_600_000
FITTED_ROWS, IDS = 20_000, 2_000


@dataclass(frozen=True)
class Requests:
    """``rows`` [N] of features with key ids, and full ``histories`` of every key and kind of tokens, one a row."""

    inputs: VmInputs
    encoder: VmEncoder
    rows: pa.Table
    histories: Mapping[HistoryKey, pa.Table]


def make_requests(config: ProjectConfig, vertical: str, size: int, length: int, seed: int) -> Requests:
    """``size`` requests of a vertical at one instant.

    Raises:
        BenchmarkError: the vertical reads lists.
    """
    rng = np.random.default_rng(seed)
    specs, dataset, codec = vm_specs(config.dataset, vertical, counters=False), config.dataset, config.fm.codec
    inputs = VmInputs(
        vertical=vertical, heads=dataset.heads, space_id="fm-latency", features=specs,
        entities=list(dataset.entities), code_dim=codec.dim, code_bits=codec.bits,
    )  # fmt: skip
    fitted = pa.table({spec.name: _column(rng, spec.kind, FITTED_ROWS) for spec in specs})
    encoder = VmEncoder(FeatureEncoder.fit(fitted, specs, config.vm.base.max_vocabulary), {})
    columns = {spec.name: _column(rng, spec.kind, size) for spec in specs}
    columns["event_ts"] = pa.array(np.full(size, NOW))
    columns["as_of"] = pa.array(np.full(size, NOW - HOUR_MS))
    for key in dataset.histories.keys:
        columns[f"key_{key}"] = pa.array(np.arange(size))
    histories: dict[HistoryKey, pa.Table] = {
        ("fm", key): _histories(rng, inputs, size, length) for key in dataset.histories.keys
    }
    return Requests(inputs, encoder, pa.table(columns), histories)


def _column(rng: np.random.Generator, kind: str, rows: int) -> pa.Array:
    if kind == "categorical":
        return pa.array(rng.integers(0, IDS, rows))
    if kind == "numeric":
        return pa.array(rng.gamma(2.0, size=rows).astype(np.float32))
    raise BenchmarkError(f"a request is made of ids and numbers, not of a {kind}: change dataset.verticals")


def _histories(rng: np.random.Generator, inputs: VmInputs, keys: int, length: int) -> pa.Table:
    """One history a key, newest token first; every label is known."""
    tokens, heads = keys * length, len(inputs.heads)
    ages = np.sort(rng.integers(HOUR_MS, 200 * HOUR_MS, (keys, length)), axis=1)
    event_ts = NOW - ages.ravel()
    codes = rng.integers(0, 256, (keys, length * inputs.code_bytes), dtype=np.uint8)
    return pa.table(
        {
            "space_id": pa.array([inputs.space_id] * keys),
            "key_id": pa.array(np.arange(keys)),
            "as_of": pa.array(np.full(keys, NOW - HOUR_MS)),
            "n": pa.array(np.full(keys, length, np.int32)),
            "event_ts": _lists(event_ts, length),
            "z": pa.array([row.tobytes() for row in codes], pa.binary()),
            "logits": _lists(rng.normal(-2, 1, tokens * heads).astype(np.float32), length * heads),
            "labels": _lists(rng.integers(0, 2, tokens * heads).astype(np.int8), length * heads),
            "label_available_at": _lists(np.repeat(event_ts, heads), length * heads),
        }
    )


def _lists(values: np.ndarray, width: int) -> pa.Array:
    offsets = np.arange(0, len(values) + 1, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
