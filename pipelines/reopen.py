"""Late rows: which ingested partitions they re-open, and which tables of those are stale because of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_store.clocks import INSTANTS_END, PartitionClock
from feature_store.late import late_rows
from feature_store.sources.changed import changed_rows
from pipelines.context import RunContext
from pipelines.plan import STALE, Target, part_states, source_targets


def late_parts(context: RunContext, part: str) -> list[str]:
    """Ingested partitions before ``part`` to which the source has rows that arrived within it and are not stored yet.

    Only partitions within ``schedule.late`` are looked at.
    """
    clock = context.dataset.clock
    first = clock.part_of(clock.start(part) - context.config.schedule.late)
    if context.dataset.arrived_at is None or first == part:
        return []
    parts = list(_ingested(context, clock.between(first, clock.next(part, -1))))
    return sorted(_counted(context, parts, (clock.start(part), clock.end(part))))


def lacking_of_files(context: RunContext, parts: list[str]) -> dict[str, int] | None:
    """Ingested ones of ``parts`` -> rows that their files hold and they do not, without Spark.

    Looked at are files that changed after a partition was ingested; a row is known by the instants of its event and its
    arrival, among the rows stored and, by number, those that the same file has in quarantine.

    Returns:
        None where only Spark can tell, see ``changed_rows``.
    """
    ingested = _ingested(context, parts)
    rows = changed_rows(context.dataset, ingested)
    if rows is None or not len(rows):
        return {} if rows is not None or context.dataset.source.world is not None else None
    rows = rows.append_column("part", _parts_of(context.dataset.clock, rows["event_ts"]))
    rows = rows.filter(pc.is_in(rows["part"], pa.array(list(ingested), pa.string())))
    touched = sorted(set(rows["part"].to_pylist()))
    stored = _rows_of(context, "examples", touched, ["event_ts", "arrived_at"])
    unknown = rows.join(stored, ["event_ts", "arrived_at"], join_type="left anti")
    aside = Counter(_places(_rows_of(context, "quarantine", touched, ["part", "source_file"]), "source_file"))
    found: Counter[str] = Counter()
    for (part, file), count in Counter(_places(unknown, "file")).items():
        found[part] += max(0, count - aside[part, file])
    return {part: count for part, count in found.items() if count}


def lacking_rows(context: RunContext, parts: list[str], since: int) -> dict[str, int]:
    """Like ``lacking_of_files``; where files do not tell, Spark counts rows that arrived at ``since`` or later."""
    found = lacking_of_files(context, parts)
    if found is not None:
        return found
    states = part_states(context, source_targets(context)[0], parts)
    return _counted(context, [part for part in parts if states[part].is_fresh], (since, INSTANTS_END))


def reopened_by_range(context: RunContext, parts: list[str]) -> list[str]:
    """Ingested partitions that contiguous ``parts`` re-open: those among them, and from ``schedule.late`` before on."""
    clock = context.dataset.clock
    first = clock.part_of(clock.start(parts[0]) - context.config.schedule.late)
    return sorted(lacking_rows(context, clock.between(first, parts[-1]), clock.start(parts[0])))


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
        info = target.info
        for other, state in part_states(context, target, parts).items():
            entry = entries.get(other)
            if entry is not None and entry.done_by(info) and state.state == STALE:
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


def _ingested(context: RunContext, parts: Sequence[str]) -> dict[str, int]:
    """Those of ``parts`` that are ingested, rejects included -> when that began."""
    entries, rejects = (context.store.ledger.coverage(table, {}) for table in ("examples", "quarantine"))
    done = (part for part in parts if part in entries and part in rejects and rejects[part].done)
    return {part: entries[part].started_at for part in done if entries[part].done}


def _counted(context: RunContext, parts: list[str], arrived: tuple[int, int]) -> dict[str, int]:
    """Rows of the source that arrived in [start, end) and that ingested ``parts`` do not hold, counted by Spark."""
    if not parts or context.dataset.source.world is not None:
        return {}
    found = late_rows(context.spark, context.dataset, parts, arrived)
    rows = _rows_of(context, "examples", parts, ["part", "arrived_at"])
    inside = pc.and_(pc.greater_equal(rows["arrived_at"], arrived[0]), pc.less(rows["arrived_at"], arrived[1]))
    stored = Counter(rows.filter(inside)["part"].cast(pa.string()).to_pylist())
    return {part: found[part] - stored[part] for part in parts if found[part] > stored[part]}


def _rows_of(context: RunContext, table: str, parts: list[str], columns: list[str]) -> pa.Table:
    version = context.pin(table, {}, parts)
    return context.store.arrow(table, version, {}, parts, columns)


def _parts_of(clock: PartitionClock, instants: pa.ChunkedArray) -> pa.Array:
    instant = instants.to_numpy()
    starts, place = np.unique(instant - (instant - clock.offset_ms) % clock.grain_ms, return_inverse=True)
    return pa.array([clock.part_of(int(start)) for start in starts], pa.string()).take(pa.array(place))


def _places(rows: pa.Table, file: str) -> Iterator[tuple[str, str]]:
    return zip(rows["part"].cast(pa.string()).to_pylist(), rows[file].to_pylist(), strict=True)
