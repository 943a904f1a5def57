"""Coverage: the state of every partition of every table, space by space. ``status`` and the grid both read this."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feature_store.ledger import LedgerEntry
from feature_store.spaces import ACTIVE, SpaceRecord
from pipelines.context import RunContext
from pipelines.plan import (
    PartState,
    Target,
    older_inputs_targets,
    part_states,
    ranges,
    space_targets,
)
from pipelines.write_range import own_parts, shared_targets

OUTSIDE = PartState("outside", "before the FM's cutoff: this space never holds it")
UNREAD = PartState("outside", "before every FM's cutoff: no VM reads it")


@dataclass(frozen=True)
class TargetCoverage:
    """States of one table in one scope; ``space_id`` is None for tables that spaces share."""

    target: Target
    space_id: str | None
    states: dict[str, PartState]

    @property
    def rows(self) -> int:
        """Rows of all its partitions."""
        return sum(state.rows for state in self.states.values())

    @property
    def counts(self) -> dict[str, int]:
        """state -> partitions in it."""
        return dict(sorted(Counter(state.state for state in self.states.values()).items()))

    @property
    def ranges(self) -> list[tuple[str, str, PartState, int]]:
        """Runs of neighbouring partitions with one state and reason: (first, last, state, count)."""
        return ranges(list(self.states), self.states)


def known_parts(context: RunContext) -> list[str]:
    """Every partition from the first to the last that was ever ingested, those between that never were included."""
    parts = context.store.ledger.coverage("examples", {})
    return context.dataset.clock.between(min(parts), max(parts)) if parts else []


def coverage(
    context: RunContext, spaces: list[SpaceRecord], parts: list[str], lacking: Mapping[str, int] | None = None
) -> list[TargetCoverage]:
    """State of each of ``parts`` in the tables that spaces share, then in those of each of ``spaces``.

    Inputs of an FM that was declared otherwise than now are shown while one of its spaces is active. What a space lacks
    before its FM's cutoff is ``outside`` it, not missing; so are raw histories that no VM reads. ``lacking``: see
    ``part_states``.
    """
    found = []
    for target, held in shared_targets(context, parts, spaces):
        found.append(TargetCoverage(target, None, _states(context, target, parts, held, UNREAD, lacking)))
    active = [space for space in spaces if space.state == ACTIVE]
    for space, target in older_inputs_targets(context, active):
        own = own_parts(context, space, parts)
        found.append(TargetCoverage(target, None, _states(context, target, parts, own, OUTSIDE)))
    for space in spaces:
        own = own_parts(context, space, parts)
        for target in space_targets(context, space):
            found.append(TargetCoverage(target, space.space_id, _states(context, target, parts, own, OUTSIDE)))
    return found


def _states(
    context: RunContext,
    target: Target,
    parts: list[str],
    held: list[str],
    otherwise: PartState,
    lacking: Mapping[str, int] | None = None,
) -> dict[str, PartState]:
    """States of a table that holds ``held`` of ``parts``: it lacks nothing of the others."""
    states, own = part_states(context, target, parts, lacking), set(held)
    return {p: otherwise if s.state == "missing" and p not in own else s for p, s in states.items()}


def grid(context: RunContext) -> dict[str, Any]:
    """All that the coverage grid shows, as plain data.

    Keys: ``parts``; ``spaces`` (id, state, the partition of its fm_train_cutoff); ``tables``, each with its label,
    table, step, scope, space, rows, counts and ``ranges`` of [index of the first part, count, state, reason];
    ``quarantine``: the allowed share and each part's share of rejected rows, null where nothing was ingested;
    ``backfill``: the start of a command line that fills gaps.
    """
    with context.store.ledger.snapshot():
        parts, spaces = known_parts(context), context.spaces.all()
        places = {part: place for place, part in enumerate(parts)}
        clock = context.dataset.clock
        entries = context.store.ledger.coverage("examples", {})
        return {
            "project": context.config.name,
            "parts": parts,
            "spaces": [
                {"id": s.space_id, "state": s.state, "cutoff": clock.part_of(s.fm_train_cutoff)} for s in spaces
            ],
            "tables": [_table(found, places) for found in coverage(context, spaces, parts)],
            "quarantine": {
                "limit": context.dataset.checks.max_reject_share,
                "shares": [_reject_share(entries.get(part)) for part in parts],
            },
            "backfill": f"loopfm backfill {context.origin}",
        }


def _table(found: TargetCoverage, places: dict[str, int]) -> dict[str, Any]:
    return {
        "label": found.target.label,
        "table": found.target.step.table,
        "step": found.target.step.name,
        "scope": found.target.scope,
        "space": found.space_id,
        "rows": found.rows,
        "counts": found.counts,
        "ranges": [[places[first], count, state.state, state.reason] for first, _, state, count in found.ranges],
    }


def _reject_share(entry: LedgerEntry | None) -> float | None:
    if entry is None or not entry.done:
        return None
    return entry.rejected / max(entry.rows + entry.rejected, 1)
