"""``loopfm value``: what a project's FM is worth, where the rest is lost, what it costs, and what leaks would gain.

Everything is read back from table evaluations, the ledger and MLflow; ``measure_value`` runs what is missing first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from feature_store.clocks import HOUR_MS
from feature_store.spaces import SpaceRecord
from models.config import VmConfig
from pipelines.build_report import report_data
from pipelines.canary import CANARY_KIND, POWER
from pipelines.config import ALL_ARMS, Arm
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.measure import FM_ARM, Figure
from pipelines.report_data import COVERAGE, VerticalReport
from pipelines.run import run_loop
from pipelines.train_vm import load_trained, vm_bytes
from pipelines.value_figures import AGE_SLICE, AGES, BOTH_ARM, CODE_ARM, LOST, NO_TOKEN
from pipelines.windows import RunWindows

VALUE_ARMS: list[Arm] = [arm for arm in ALL_ARMS if arm not in ("control_kd", "raw_loopfm_kd")]
SCHEDULED = "/scheduled__"


@dataclass(frozen=True)
class Part:
    """NE of one part of the gain, positive where it helps, with its 95 % interval (nan where none was computed)."""

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class SliceValue:
    """Gain over base of the FM and of LoopFM on a slice of the rows, in the slice's own NE; TR is their ratio."""

    name: str
    rows: int
    fm: float
    loopfm: float

    @property
    def transfer_ratio(self) -> float:
        """Share of the FM's gain on this slice; nan where the FM gains nothing."""
        return self.loopfm / self.fm if self.fm > 0 else math.nan


@dataclass(frozen=True)
class VerticalValue:
    """What the FM is worth to one vertical.

    ``parts``: I_temporal, I_cross and I_residual. ``lost``: what LoopFM misses of the FM, by the age of the newest
    token a row can read; it adds up to the FM's gain less LoopFM's. ``codec``: at most this is lost in captured layer
    and codec, of the FM's gain. ``coverage``: share of rows with a history, by key.
    """

    name: str
    fm_gain: float
    gains: dict[str, Part]
    ratios: dict[str, float]
    parts: list[Part]
    codec: float
    lost: dict[str, Part]
    slices: list[SliceValue]
    freshness: list[SliceValue]
    coverage: dict[str, float]


@dataclass(frozen=True)
class ValueReport:
    """A team's report. ``leaks``: AUC that each deliberate leak gained, none where no canary ran."""

    project: str
    created: str
    seeds: int
    verticals: list[VerticalValue]
    costs: dict[str, str]
    leaks: dict[str, float]
    lag: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain data; what is no number is null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def measure_value(context: RunContext, windows: RunWindows, seeds: int) -> ValueReport:
    """Train and compare every arm that the report needs, nothing registered, then gather it; what is done is kept."""
    run_loop(context, windows, VALUE_ARMS, seeds, register=False)
    return value_report(context)


def value_report(context: RunContext) -> ValueReport:
    """The report of the newest comparison.

    Raises:
        StepError: it did not compare raw and FM tokens together.
    """
    data = report_data(context)
    if not any(BOTH_ARM in vertical.arms for vertical in data.verticals):
        raise StepError(
            f"{context.origin}: the newest comparison has no arm {BOTH_ARM}: run `loopfm value {context.origin}`"
        )
    return ValueReport(
        project=data.project,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        seeds=data.seeds,
        verticals=[vertical_value(vertical) for vertical in data.verticals],
        costs=_costs(context, context.spaces.get(data.lineage["space"])),
        leaks=leaks(context),
        lag=measured_lag(context),
    )


def vertical_value(vertical: VerticalReport) -> VerticalValue:
    """The figures of one vertical, from its rows of ``evaluations``."""
    fm_gain = _gain(vertical, FM_ARM).value
    arms = [arm for arm in VALUE_ARMS if arm != "base" and arm in vertical.arms]
    both, code = BOTH_ARM, vertical.value(CODE_ARM, "ne")
    fm = vertical.value(FM_ARM, "ne")
    return VerticalValue(
        name=vertical.name,
        fm_gain=fm_gain,
        gains={arm: _gain(vertical, arm) for arm in arms},
        ratios={arm: ratio for arm in arms if (ratio := vertical.value(arm, "tr")) is not None},
        parts=[
            _part("I_temporal", vertical.find("raw", "ne_minus_base")),
            _part("I_cross", vertical.find(both, "ne_minus_raw")),
            _part("I_residual", vertical.find(both, "ne_minus_loopfm")),
        ],
        codec=math.nan if code is None or fm is None else code - fm,
        lost=_lost(vertical),
        slices=_slice_values(vertical, [n for n in vertical.named_slices if not n.startswith(AGE_SLICE)]),
        freshness=_slice_values(vertical, [f"{AGE_SLICE}{name}" for name in (*AGES, NO_TOKEN)]),
        coverage={key: share for key in vertical.history_keys if (share := _coverage(vertical, key)) is not None},
    )


def measured_lag(context: RunContext) -> dict[str, float]:
    """Hours from the end of a partition to its publication, over partitions that scheduled runs made; empty if none.

    ``declared``, ``median``, ``longest``, and the number of ``partitions``. Backfills tell nothing about the lag.
    """
    found = []
    for space in context.spaces.active():
        for part, entry in context.store.ledger.coverage("features", {"space_id": space.space_id}).items():
            if entry.done and SCHEDULED in entry.run_id:
                found.append((entry.computed_at - context.dataset.clock.end(part)) / HOUR_MS)
    if not found:
        return {}
    hours = {"median": float(np.median(found)), "longest": float(max(found)), "partitions": float(len(found))}
    return {"declared": context.dataset.lag / HOUR_MS, **hours}


def _gain(vertical: VerticalReport, arm: str) -> Part:
    return _part(arm, vertical.find(arm, "ne_minus_base"))


def _part(name: str, difference: Figure | None) -> Part:
    """A gain: NE is lower where it is better, so a difference is turned round with its interval."""
    if difference is None:
        return Part(name, math.nan)
    return Part(name, -difference.value, -difference.high, -difference.low)


def _lost(vertical: VerticalReport) -> dict[str, Part]:
    found = {name: vertical.value("loopfm", LOST, f"{AGE_SLICE}{name}") for name in (*AGES, NO_TOKEN)}
    return {name: Part(name, value) for name, value in found.items() if value is not None}


def _slice_values(vertical: VerticalReport, names: list[str]) -> list[SliceValue]:
    found = []
    for name in names:
        figure, base, fm = (vertical.find(arm, "ne", name) for arm in ("loopfm", "base", FM_ARM))
        if figure is not None and base is not None and fm is not None:
            shown = name.removeprefix(AGE_SLICE)
            found.append(SliceValue(shown, figure.rows, base.value - fm.value, base.value - figure.value))
    return found


def _coverage(vertical: VerticalReport, key: str) -> float | None:
    shares = [vertical.value(arm, f"{COVERAGE}{key}") for arm in vertical.arms]
    known = [share for share in shares if share is not None]
    return max(known) if known else None


def leaks(context: RunContext) -> dict[str, float]:
    """AUC that each deliberate leak gained in the newest canary; empty where none ran."""
    runs = context.registry.runs_with({"loopfm.kind": CANARY_KIND})
    if not runs:
        return {}
    metrics: Mapping[str, float] = runs[0].data.metrics
    return {n.removeprefix(POWER).replace("_", " "): v for n, v in sorted(metrics.items()) if n.startswith(POWER)}


def _costs(context: RunContext, space: SpaceRecord) -> dict[str, str]:
    scope = {"space_id": space.space_id}
    outputs = [e for e in context.store.ledger.coverage("fm_outputs", scope).values() if e.done]
    histories = [e for e in context.store.ledger.coverage("histories", scope).values() if e.done]
    costs = {
        "FM passes": f"{sum(entry.rows for entry in outputs):,} (one an example)",
        "a stored vector": f"{space.code_bytes} bytes",
        "stored histories": f"{sum(entry.rows for entry in histories):,}",
        "a full history": f"{space.code_bytes * context.dataset.histories.length:,} bytes of vectors",
    }
    seconds = _run_seconds(context, space.run_id)
    if seconds is not None:
        costs["FM training"] = f"{seconds:.0f} s"
    return costs | _vm_costs(context, space)


def _vm_costs(context: RunContext, space: SpaceRecord) -> dict[str, str]:
    costs = {}
    for arm in ("base", "loopfm"):
        tags = {"loopfm.kind": "vm", "loopfm.arm": arm, "loopfm.space": space.space_id}
        for run in context.registry.runs_with(tags)[:1]:
            artifact = load_trained(context, str(run.info.run_id))
            size = vm_bytes(context, str(run.info.run_id))
            costs[f"VM of arm {arm}"] = f"{size:,} bytes, {_run_seconds(context, str(run.info.run_id)) or 0:.0f} s"
            costs |= _readers(artifact.config) if arm == "loopfm" else {}
    return costs


def _readers(config: VmConfig) -> dict[str, str]:
    return {"readers": "; ".join(f"{'+'.join(r.keys)}: {', '.join(r.kinds)}" for r in config.readers)}


def _run_seconds(context: RunContext, run_id: str) -> float | None:
    info = context.registry.client.get_run(run_id).info
    return None if info.end_time is None else (info.end_time - info.start_time) / 1000


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
