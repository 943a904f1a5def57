"""Step ``ingest``: source rows become validated examples and labels; what does not fit goes to quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feature_store.ingest import ingest_frames
from pipelines.context import RunContext
from pipelines.step import TableStep, write_table


def _definition(context: RunContext) -> Sequence[Any]:
    dataset = context.dataset
    verticals = {name: (v.label, v.where) for name, v in dataset.verticals.items()}
    columns = (dataset.entities, dataset.event_ts, dataset.arrived_at, dataset.impression_id, dataset.weight)
    return (dataset.source, *columns, dataset.sampling_rate, dataset.labels, dataset.features, verticals, dataset.grain)


EXAMPLES = TableStep("ingest", 1, "examples", _definition)
LABELS = TableStep("ingest", 1, "labels", _definition)
PAST_EVENTS = TableStep("ingest", 1, "past_events", _definition)
QUARANTINE = TableStep("ingest", 1, "quarantine", _definition)


def ingest(context: RunContext, parts: list[str]) -> None:
    """Write examples, labels, past events and quarantine of contiguous ``parts``, one commit a table.

    Raises:
        BadDataError: a column changed its type, or more rows were rejected than ``checks.max_reject_share``.
    """
    frames = ingest_frames(context.spark, context.dataset, parts)
    try:
        write_table(context, QUARANTINE, {}, parts, {}, lambda: frames.quarantine)
        write_table(context, LABELS, {}, parts, {}, lambda: frames.labels)
        write_table(context, EXAMPLES, {}, parts, {}, lambda: frames.examples, frames.rejected)
    finally:
        frames.release()
    if context.dataset.source.past_events is not None:
        _ingest_past_events(context, parts)


def _ingest_past_events(context: RunContext, parts: list[str]) -> None:
    """The second source, from one retention before the range: histories of its first partitions need it."""
    clock = context.dataset.clock
    earliest = clock.part_of(clock.start(parts[0]) - context.dataset.histories.retention)
    wanted = clock.between(earliest, parts[-1])
    done = context.store.ledger.coverage("past_events", {})
    missing = [part for part in wanted if part not in done or done[part].state != "done"]
    span = clock.between(min([*missing, *parts]), parts[-1])
    past = ingest_frames(context.spark, context.dataset, span).past_events
    assert past is not None
    write_table(context, PAST_EVENTS, {}, span, {}, lambda: past)
