"""Step ``ingest``: source rows become validated examples and labels; what does not fit goes to quarantine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from feature_store.errors import BadDataError, ContractError
from feature_store.ingest import ingest_frames
from pipelines.context import RunContext
from pipelines.failures import explained
from pipelines.step import TableStep, attempted, begin, commit, write_table


def _definition(context: RunContext) -> Sequence[Any]:
    dataset = context.dataset
    verticals = {name: (v.label, v.where) for name, v in dataset.verticals.items()}
    columns = (dataset.entities, dataset.event_ts, dataset.arrived_at, dataset.impression_id, dataset.weight)
    return (dataset.source, *columns, dataset.sampling_rate, dataset.labels, dataset.features, verticals, dataset.grain)


EXAMPLES = TableStep("ingest", 3, "examples", _definition)
LABELS = TableStep("ingest", 3, "labels", _definition)
PAST_EVENTS = TableStep("ingest", 1, "past_events", _definition)
QUARANTINE = TableStep("ingest", 3, "quarantine", _definition)


def ingest(context: RunContext, parts: list[str]) -> None:
    """Write examples, labels, past events and quarantine of contiguous ``parts``, one commit a table.

    Raises:
        BadDataError: a column changed its type, or more rows were rejected than ``checks.max_reject_share``.
    """
    steps = (QUARANTINE, LABELS, EXAMPLES)
    quarantine, labels, examples = attempts = [begin(context, step, {}, parts, {}) for step in steps]
    with attempted(context, *attempts):
        frames = ingest_frames(context.spark, context.dataset, parts)
        try:
            commit(context, quarantine, lambda: frames.quarantine)
            commit(context, labels, lambda: frames.labels)
            commit(context, examples, lambda: frames.examples, frames.rejected)
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

    def build() -> Any:
        return ingest_frames(context.spark, context.dataset, span).past_events

    write_table(context, PAST_EVENTS, {}, span, {}, build)


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
