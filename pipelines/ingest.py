"""Step ``ingest``: source rows become validated examples and labels; what does not fit goes to quarantine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from feature_store.errors import BadDataError, ContractError
from feature_store.ingest import ingest_frames
from pipelines.context import RunContext
from pipelines.failures import explained
from pipelines.step import TableStep, attempted, begin, commit


def _definition(context: RunContext) -> Sequence[Any]:
    dataset = context.dataset
    verticals = {name: (v.label, v.where) for name, v in dataset.verticals.items()}
    columns = (dataset.entities, dataset.event_ts, dataset.arrived_at, dataset.impression_id, dataset.weight)
    return (dataset.source, *columns, dataset.sampling_rate, dataset.labels, dataset.features, verticals, dataset.grain)


EXAMPLES = TableStep("ingest", 5, "examples", _definition)
LABELS = TableStep("ingest", 5, "labels", _definition)
PAST_EVENTS = TableStep("ingest", 4, "past_events", _definition)
QUARANTINE = TableStep("ingest", 5, "quarantine", _definition)


def ingest(context: RunContext, parts: list[str]) -> None:
    """Write examples, labels, past events and quarantine of contiguous ``parts``, one commit a table.

    Histories need past events from before ``parts`` too: see ``write_range.past_calls``.

    Raises:
        BadDataError: a column changed its type, or more rows were rejected than ``checks.max_reject_share``.
    """
    steps = [QUARANTINE, LABELS, *([PAST_EVENTS] if _has_past(context) else []), EXAMPLES]
    attempts = {step.table: begin(context, step, {}, parts, {}) for step in steps}
    with attempted(context, *attempts.values()):
        frames = ingest_frames(context.spark, context.dataset, parts)
        try:
            commit(context, attempts["quarantine"], lambda: frames.quarantine)
            commit(context, attempts["labels"], lambda: frames.labels)
            if frames.past_events is not None:
                past_events = frames.past_events
                commit(context, attempts["past_events"], lambda: past_events)
            commit(context, attempts["examples"], lambda: frames.examples, frames.rejected)
        finally:
            frames.release()


def past_parts(context: RunContext, parts: list[str]) -> list[str]:
    """Contiguous ``parts`` and those before that their histories read past events of; without a second source none."""
    if not _has_past(context):
        return []
    clock = context.dataset.clock
    return clock.between(clock.part_of(clock.start(parts[0]) - context.dataset.histories.retention), parts[-1])


def write_past_events(context: RunContext, parts: list[str]) -> None:
    """Past events of contiguous ``parts``, and what is wrong with them where no ingest of examples has set it aside."""
    ingested = context.store.ledger.coverage(EXAMPLES.table, {})
    for held, run in groupby(parts, lambda part: part in ingested):
        _write_past_events(context, list(run), quarantine=not held)


def _write_past_events(context: RunContext, parts: list[str], *, quarantine: bool) -> None:
    steps = [*([QUARANTINE] if quarantine else []), PAST_EVENTS]
    attempts = {step.table: begin(context, step, {}, parts, {}) for step in steps}
    with attempted(context, *attempts.values()):
        frames = ingest_frames(context.spark, context.dataset, parts, examples=False)
        try:
            past_events = frames.past_events
            if past_events is None:
                raise AssertionError("a data set without past events has none to write")
            if quarantine:
                commit(context, attempts["quarantine"], lambda: frames.quarantine)
            commit(context, attempts["past_events"], lambda: past_events)
        finally:
            frames.release()


def _has_past(context: RunContext) -> bool:
    return context.dataset.source.past_events is not None


@contextmanager
def attempted_check(context: RunContext, parts: list[str], record: bool) -> Iterator[None]:
    """Errors of a look at the source say where it was.

    Args:
        context: the project.
        parts: contiguous partitions that are looked at.
        record: enter a bad source as a failed ingest of those partitions that are not done; done ones stay so.
    """
    try:
        with explained(context, "check", parts, EXAMPLES.table, {}, {}):
            yield
    except (BadDataError, ContractError) as error:
        done = {part for part, entry in context.store.ledger.coverage(EXAMPLES.table, {}).items() if entry.done}
        for part in parts if record else []:
            if part not in done:
                for step in (LABELS, EXAMPLES):
                    attempt = begin(context, step, {}, [part], {})
                    context.store.fail(attempt, f"check: {type(error).__name__}: {error}"[:2000])
        raise
