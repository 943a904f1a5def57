"""The small models of a project: champions, their figures over time, staleness, and what the FM is worth to them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_store.clocks import HOUR_MS
from pipelines.context import RunContext
from pipelines.inspection.coverage import known_parts
from pipelines.inspection.lineage import gate_of
from pipelines.inspection.registered import ModelBook, ModelVersion
from pipelines.measure import ALL_ROWS, FM_ARM
from pipelines.registry import CHAMPION
from pipelines.report_data import PART_SLICE, VerticalReport, figures_by_vertical
from pipelines.report_rows import arm_label, value_lines

SHOWN_VERSIONS = 20
OVER_TIME = ("ne", "tr", "calibration")
COLUMNS = [
    "vertical", "arm", "seed", "slice", "metric", "value", "low", "high", "rows", "model_version", "first_part",
    "last_part", "computed_at",
]  # fmt: skip
GATE_ARM = "gate"


def vms(context: RunContext) -> dict[str, Any]:
    """All that the page of VMs shows, as plain data: one entry a vertical (see ``_vertical``), and the newest partition
    that was ingested.
    """
    figures = _evaluations(context)
    parts = known_parts(context)
    book = ModelBook(context)
    return {
        "project": context.config.name,
        "newest": parts[-1] if parts else None,
        "verticals": [
            _vertical(
                context, name, book.vm(name, SHOWN_VERSIONS), figures.filter(pc.equal(figures["vertical"], name)), parts
            )
            for name in context.dataset.heads
        ],
    }


def _vertical(
    context: RunContext, name: str, versions: list[ModelVersion], figures: pa.Table, parts: list[str]
) -> dict[str, Any]:
    """One vertical: its versions, staleness of its champion, series, the FM's value."""
    champion = next((version for version in versions if CHAMPION in version.aliases), None)
    return {
        "name": name,
        "model": context.vm_name(name),
        "champion": None if champion is None else champion.version,
        "versions": [_version(version) for version in versions],
        "staleness": _staleness(context, champion, parts),
        "series": series(figures),
        "value": _value(name, figures),
    }


def _version(version: ModelVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "aliases": list(version.aliases),
        "run_id": version.run_id,
        "arm": version.tag("arm"),
        "space": version.tag("space"),
        "commit": version.tag("commit"),
        "trained_until": version.tag("trained_until"),
        "gate": gate_of(version),
        "created_at": version.created_at,
    }


def _staleness(context: RunContext, champion: ModelVersion | None, parts: list[str]) -> dict[str, Any]:
    """Age of what a champion reads and knows: hours of its histories, partitions since its and its FM's training."""
    clock = context.dataset.clock
    found: dict[str, Any] = {"history_hours": context.dataset.history_clock.mean_age_ms / HOUR_MS}
    if champion is None:
        return found
    until = champion.tag("trained_until") or ""
    found |= {"trained_until": until, "partitions_since": sum(part > until for part in parts)}
    space = next((s for s in context.spaces.all() if s.space_id == champion.tag("space")), None)
    if space is not None:
        cutoff = clock.part_of(space.fm_train_cutoff)
        found |= {"fm_cutoff": cutoff, "partitions_since_fm": sum(part > cutoff for part in parts)}
    return found


def series(figures: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Metric -> one line an arm: its label and its points by partition, the newest measurement of each.

    A point is the figure of one partition, or else of a comparison at the last partition that it covers. Seeds are left
    out: their mean is a figure of its own.
    """
    wanted = figures.filter(
        pc.and_(
            pc.and_(pc.is_null(figures["seed"]), pc.is_in(figures["metric"], pa.array(OVER_TIME))),
            pc.and_(
                pc.and_(pc.not_equal(figures["arm"], GATE_ARM), pc.is_finite(figures["value"])),
                pc.or_(pc.equal(figures["slice"], ALL_ROWS), pc.starts_with(figures["slice"], PART_SLICE)),
            ),
        )
    )
    newest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in sorted(wanted.to_pylist(), key=lambda row: (_of_one_part(row), row["computed_at"])):
        part = row["slice"].removeprefix(PART_SLICE) if row["slice"] != ALL_ROWS else row["last_part"]
        newest[row["metric"], row["arm"], part] = row
    found: dict[str, dict[str, list[dict[str, Any]]]] = {metric: {} for metric in OVER_TIME}
    for (metric, arm, part), row in sorted(newest.items()):
        point = {"part": part, "value": row["value"], "rows": row["rows"], "version": row["model_version"] or None}
        found[metric].setdefault(arm, []).append(point)
    return {
        metric: [{"arm": arm, "label": arm_label(arm), "points": points} for arm, points in lines.items()]
        for metric, lines in found.items()
    }


def _of_one_part(row: dict[str, Any]) -> bool:
    return row["slice"] != ALL_ROWS or row["first_part"] == row["last_part"]


def _value(vertical: str, figures: pa.Table) -> list[str]:
    """What the FM is worth in the newest comparison that measured it; no lines where there was none."""
    fm = figures.filter(pc.equal(figures["arm"], FM_ARM))
    if not len(fm):
        return []
    newest = figures.filter(pc.equal(figures["computed_at"], pc.max(fm["computed_at"])))
    return value_lines(VerticalReport(vertical, figures_by_vertical(newest)[vertical]))


def _evaluations(context: RunContext) -> pa.Table:
    store = context.store
    if not store.exists("evaluations"):
        return store.schema("evaluations").empty_table().select(COLUMNS)
    return store.arrow("evaluations", store.newest("evaluations"), {}, None, COLUMNS)
