"""What a backfill would write: missing and stale partitions, why, estimated rows and time, and chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from feature_store.clocks import DAY_MS
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.plan import PlannedWrite, older_inputs_targets, planned_writes, space_targets
from pipelines.write_range import own_parts, shared_targets

SESSION_SECONDS = 12.0
"""Start of a Spark session and of a task, on two cores."""
ROWS_PER_SECOND = 15_000.0
"""Rows of one table a second, on two cores; used until the ledger knows this machine's own rate."""
WANTED_CHUNKS = 500
"""Airflow makes at most 1,024 tasks of one list: a longer backfill gets larger chunks, of which any two neighbours hold
more than one chunk's rows."""


@dataclass(frozen=True)
class BackfillPlan:
    """What is to do, cut into ``chunks`` (first, last) of at most ``schedule.backfill_rows`` rows.

    They are larger where they would be more than Airflow makes tasks of.
    """

    writes: list[PlannedWrite]
    chunks: list[tuple[str, str]]
    rows: int
    seconds: float

    def __str__(self) -> str:
        if not self.writes:
            return "nothing is missing or stale"
        total = f"about {self.rows:,} rows of examples in {len(self.chunks)} chunks, about {self.seconds / 60:.1f} min"
        return "\n".join([*map(str, self.writes), total])


def plan_backfill(
    context: RunContext,
    parts: list[str],
    spaces: Sequence[SpaceRecord],
    lacking: Mapping[str, int] | None = None,
) -> BackfillPlan:
    """Plan over contiguous ``parts``, for the tables of all spaces and those of each of ``spaces``.

    ``lacking``: rows of the source that an ingested partition does not hold.
    """
    wanted = shared_targets(context, parts, spaces)
    older = older_inputs_targets(context, spaces)
    wanted += [(target, own_parts(context, space, parts)) for space, target in older]
    for space in spaces:
        own = own_parts(context, space, parts)
        wanted += [(target, own) for target in space_targets(context, space)]
    writes = planned_writes(context, wanted, lacking)
    needed = {part for write in writes for part in write.parts}
    rows = expected_rows(context, parts)
    chunks = _chunks(context, sorted(needed), rows)
    mean = sum(rows[part] for part in needed) / len(needed) if needed else 0
    seconds = SESSION_SECONDS * len(chunks) + sum(len(write.parts) for write in writes) * mean / _rate(context)
    return BackfillPlan(writes, chunks, round(sum(rows[part] for part in needed)), seconds)


def expected_rows(context: RunContext, parts: list[str]) -> dict[str, float]:
    """Rows of examples of each partition: the ledger's where it was ingested, else the mean of those that were."""
    done = {p: e.rows for p, e in context.store.ledger.coverage("examples", {}).items() if e.done and e.rows}
    world = context.dataset.source.world
    usual = world.rows_per_day * context.dataset.grain / DAY_MS if world is not None else 0.0
    mean = sum(done.values()) / len(done) if done else usual
    return {part: float(done.get(part, mean)) for part in parts}


def _chunks(context: RunContext, needed: list[str], rows: dict[str, float]) -> list[tuple[str, str]]:
    clock = context.dataset.clock
    limit = max(context.config.schedule.backfill_rows, sum(rows[part] for part in needed) / WANTED_CHUNKS)
    chunks: list[tuple[str, str]] = []
    held = 0.0
    for part in needed:
        if chunks and held + rows[part] <= limit and clock.next(chunks[-1][1]) == part:
            chunks[-1] = (chunks[-1][0], part)
            held += rows[part]
        else:
            chunks.append((part, part))
            held = rows[part]
    return chunks


def _rate(context: RunContext) -> float:
    """Rows a second of this project's own commits so far."""
    rows, milliseconds, seen = 0, 0, set()
    for entry in (
        context.store.ledger.entries().select(["state", "rows", "token", "started_at", "computed_at"]).to_pylist()
    ):
        if entry["state"] == "done":
            rows += entry["rows"]
            if entry["token"] not in seen:
                seen.add(entry["token"])
                milliseconds += max(entry["computed_at"] - entry["started_at"], 1)
    return 1000 * rows / milliseconds if rows else ROWS_PER_SECOND
