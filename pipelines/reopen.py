"""Late rows: which earlier partitions they re-open, and which tables of those are stale because of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from feature_store.late import late_rows
from pipelines.context import RunContext
from pipelines.plan import Target, part_states


def late_parts(context: RunContext, part: str) -> list[str]:
    """Ingested partitions before ``part`` to which the source has rows that arrived within it and are not stored yet.

    Only partitions within ``schedule.late`` are looked at.
    """
    clock = context.dataset.clock
    first = clock.part_of(clock.start(part) - context.config.schedule.late)
    if context.dataset.arrived_at is None or first == part:
        return []
    done = context.store.ledger.coverage("examples", {})
    parts = [p for p in clock.between(first, clock.next(part, -1)) if p in done and done[p].done]
    if not parts:
        return []
    arrived = (clock.start(part), clock.end(part))
    found = late_rows(context.spark, context.dataset, parts, arrived)
    stored = _stored(context, parts, arrived)
    return [p for p in parts if found[p] > stored[p]]


def reopened(context: RunContext, targets: Sequence[Target], part: str) -> list[str]:
    """Partitions that one run of ``part`` writes in ``targets``: itself, and others whose inputs were written again.

    Looked at are those from ``schedule.late`` before it to the newest there is: whatever order runs end in, the last
    one leaves nothing stale. A changed definition re-opens nothing: that is a backfill's work, which a person starts.
    """
    clock = context.dataset.clock
    first = clock.part_of(clock.start(part) - context.config.schedule.late)
    found = {part}
    for target in targets:
        entries = context.store.ledger.coverage(target.step.table, target.scope)
        parts = clock.between(first, max([part, *entries]))
        info = target.step.info(context)
        for other, state in part_states(context, target, parts).items():
            entry = entries.get(other)
            same = entry is not None and (entry.step_version, entry.definition) == (info.version, info.definition)
            if same and state.state == "stale":
                found.add(other)
    return sorted(found)


def runs_of(context: RunContext, parts: Sequence[str]) -> list[list[str]]:
    """Contiguous runs of ascending partitions: one commit each."""
    clock = context.dataset.clock
    runs: list[list[str]] = []
    for part in parts:
        if runs and clock.next(runs[-1][-1]) == part:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _stored(context: RunContext, parts: list[str], arrived: tuple[int, int]) -> Counter[str]:
    version = context.pin("examples", {}, parts)
    rows = context.store.arrow("examples", version, {}, parts, ["part", "arrived_at"])
    inside = pc.and_(pc.greater_equal(rows["arrived_at"], arrived[0]), pc.less(rows["arrived_at"], arrived[1]))
    return Counter(rows.filter(inside)["part"].cast(pa.string()).to_pylist())
