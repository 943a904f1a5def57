"""A change of FM: keep the old space, read the new one through a map, or backfill it for VMs of its own.

``loopfm align`` and the FM's Dag print the three ways side by side: the NE of VMs on rows that no map was fitted on,
and what each way costs by what the ledger says that steps took before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feature_store.histories import segment_span
from feature_store.ledger import LedgerEntry
from feature_store.spaces import SpaceRecord
from pipelines.align import FittedAlignment
from pipelines.align_choice import NE_TIE, HeldOut, readers_of, run_ids
from pipelines.context import RunContext
from pipelines.registry import CHAMPION, TRAINED_UNTIL, RegisteredModel
from pipelines.write_range import own_parts

KEEP, ALIGN, BACKFILL = "keep", "align", "backfill"
SPACE_TABLES = ("fm_outputs", "segments", "histories", "features")


@dataclass(frozen=True)
class Way:
    """One way on from an old space.

    Args:
        name: keep, align or backfill.
        ne: by vertical, of the VMs that would serve; without those that cannot be told.
        passes: examples that the new FM scores for it, in all.
        left: those of them that are not scored yet.
        seconds: of what is left: steps, and trainings of VMs; nan where nothing tells.
        part_seconds: of a partition's steps from then on; nan where nothing tells.
    """

    name: str
    ne: dict[str, float] = field(default_factory=dict)
    passes: int = 0
    left: int = 0
    seconds: float = 0.0
    part_seconds: float = math.nan


def ways(
    context: RunContext, source: SpaceRecord, target: SpaceRecord, fitted: FittedAlignment | None
) -> dict[str, Way]:
    """The ways from ``target``, which VMs read, to ``source``; no align without ``fitted``, a map between them.

    NE is of the rows that ``fitted`` held out, where both spaces hold their features. A VM of the new space that has
    trained on some of them has none.
    """
    old, new = readers_of(context, target), readers_of(context, source)
    rows = fitted.held_out.of(context, source).of(context, target) if fitted else HeldOut([], 0)
    unseen = {v: m for v, m in new.items() if rows.parts and m.tags.get(TRAINED_UNTIL, "") < rows.parts[0]}
    before, after = _part_seconds(context, target), _part_seconds(context, source)
    after = before if math.isnan(after) else after  # nothing of the new space is written yet
    found = [Way(KEEP, rows.ne(context, run_ids(old), target), part_seconds=before)]
    if fitted is not None:
        through = rows.ne(context, run_ids(old), source, fitted.alignment)
        passes, left, parts = _passes(context, source, _read_next(context))
        found.append(Way(ALIGN, through, passes, left, parts * after, after))
    passes, left, parts = _passes(context, source, _read_by_a_new_vm(context))
    missing = [vertical for vertical in context.dataset.heads if vertical not in new]
    seconds = parts * after + _training_seconds(context, old, missing)
    found.append(Way(BACKFILL, rows.ne(context, run_ids(unseen), source), passes, left, seconds, after))
    return {way.name: way for way in found}


def advice(found: Mapping[str, Way]) -> str:
    """What the figures speak for, in one line."""
    keep, align, backfill = (found.get(name) for name in (KEEP, ALIGN, BACKFILL))
    if align is None or keep is None or not keep.ne:
        return "no map to judge: VMs of the new space show what it is worth"
    verticals = sorted(set(keep.ne) & set(align.ne))
    lost = _mean(align, verticals) - _mean(keep, verticals)
    if backfill is not None and set(verticals) <= set(backfill.ne):
        gained = min(_mean(align, verticals), _mean(keep, verticals)) - _mean(backfill, verticals)
        if gained > NE_TIE:
            return f"backfill: VMs of the new space are {gained:.4f} NE better than those there are"
    if lost <= NE_TIE:
        return f"align: VMs of the old space read the new one at {lost:+.4f} NE, without training"
    return f"keep, until VMs of the new space are better: the map costs {lost:.4f} NE"


def table(found: Mapping[str, Way], verticals: Sequence[str]) -> list[str]:
    """The ways as lines of text."""
    head = ["way", *(f"NE {vertical}" for vertical in verticals), "FM passes", "left", "seconds", "then, a partition"]
    rows = [head]
    for way in found.values():
        ne = [_number(way.ne.get(vertical, math.nan), "{:.4f}") for vertical in verticals]
        costs = [
            f"{way.passes:,}",
            f"{way.left:,}",
            _number(way.seconds, "{:.0f}"),
            _number(way.part_seconds, "{:.1f}"),
        ]
        rows.append([way.name, *ne, *costs])
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def champion_space(context: RunContext) -> SpaceRecord | None:
    """The space that the champions read, of several the newest; None without a champion."""
    models = [context.registry.by_alias(context.vm_name(vertical), CHAMPION) for vertical in context.dataset.heads]
    spaces = [context.spaces.get(model.tags["loopfm.space"]) for model in models if model is not None]
    return max(spaces, key=lambda space: space.fm_train_cutoff, default=None)


def shared_parts(context: RunContext, source: SpaceRecord, target: SpaceRecord) -> list[str]:
    """The newest contiguous partitions with outputs in both spaces, at most as many as a VM trains and validates on."""
    clock, windows = context.dataset.clock, context.config.windows
    held = [_done(context, "fm_outputs", space) for space in (source, target)]
    both = sorted(set(held[0]) & set(held[1]))
    limit = max(1, (windows.vm_train + windows.vm_validation) // clock.grain_ms)
    found = both[-1:]
    while found and len(found) < limit and clock.next(found[0], -1) in both:
        found.insert(0, clock.next(found[0], -1))
    return found


def _read_next(context: RunContext) -> tuple[str, str] | None:
    """Span of partitions whose segments the next partition's histories read."""
    ingested = context.store.ledger.coverage("examples", {})
    if not ingested:
        return None
    following = context.dataset.clock.next(max(ingested))
    return segment_span(context.dataset, following, following)


def _read_by_a_new_vm(context: RunContext) -> tuple[str, str] | None:
    """Span of partitions whose segments the rows of a new VM's windows read."""
    span, settings = _read_next(context), context.config.windows
    if span is None:
        return None
    clock, window = context.dataset.clock, settings.vm_train + settings.vm_validation + settings.test
    return clock.next(span[0], -(window // clock.grain_ms)), span[1]


def _passes(context: RunContext, source: SpaceRecord, span: tuple[str, str] | None) -> tuple[int, int, int]:
    """Examples of ``span`` that the source's FM scores, those of them not done, and their partitions."""
    if span is None:
        return 0, 0, 0
    ingested, scored = context.store.ledger.coverage("examples", {}), _done(context, "fm_outputs", source)
    parts = own_parts(context, source, [p for p, e in ingested.items() if e.done and span[0] <= p <= span[1]])
    missing = [part for part in parts if part not in scored and ingested[part].rows]
    return sum(ingested[part].rows for part in parts), sum(ingested[part].rows for part in missing), len(missing)


def _part_seconds(context: RunContext, space: SpaceRecord) -> float:
    """Mean seconds of all steps of one partition of a space; nan where none was written."""
    found = [_done(context, table, space) for table in SPACE_TABLES]
    return sum(_mean_seconds(entries) for entries in found)


def _mean_seconds(entries: Mapping[str, LedgerEntry]) -> float:
    # The partitions of one commit share its time.
    attempts = {entry.token: entry.computed_at - entry.started_at for entry in entries.values()}
    return sum(attempts.values()) / 1000 / len(entries) if entries else math.nan


def _training_seconds(context: RunContext, like: Mapping[str, RegisteredModel], verticals: Sequence[str]) -> float:
    """Seconds that VMs of ``verticals`` train, as those that serve them now did; nan where there is none."""
    total = 0.0
    for vertical in verticals:
        info = context.registry.client.get_run(like[vertical].run_id).info if vertical in like else None
        total += math.nan if info is None or info.end_time is None else (info.end_time - info.start_time) / 1000
    return total


def _done(context: RunContext, table: str, space: SpaceRecord) -> dict[str, LedgerEntry]:
    entries = context.store.ledger.coverage(table, {"space_id": space.space_id})
    return {part: entry for part, entry in entries.items() if entry.done}


def _mean(way: Way, verticals: Sequence[str]) -> float:
    return math.fsum(way.ne[vertical] for vertical in verticals) / len(verticals) if verticals else math.nan


def _number(value: float, form: str) -> str:
    return "?" if math.isnan(value) else form.format(value)
