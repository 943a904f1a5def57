"""Which partitions are mature: all of their labels are known at the instant used.

What judges models (gate, evaluate, comparisons) uses the end of the newest ingested partition: what a run at that time
could have known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from feature_store.config import RAW_SPACE
from pipelines.context import RunContext
from pipelines.errors import ImmatureError


@dataclass(frozen=True)
class LabelState:
    """Labels of one vertical in one partition: rows, positives, and when the last one is known (ms).

    ``known_at`` is never before the declared delay after the partition's end: a source that tells a label only once it
    is known leaves no row that would say how many are still to come.
    """

    rows: int
    positives: int
    known_at: int


def label_states(context: RunContext, vertical: str, parts: list[str]) -> dict[str, LabelState]:
    """Per partition with labels, what is known of them."""
    dataset = context.dataset
    delay = dataset.labels[dataset.verticals[vertical].label].delay
    version = context.pin("labels", {}, parts)
    columns = ["part", "vertical", "label", "label_available_at"]
    labels = context.store.arrow("labels", version, {}, parts, columns)
    own = labels.filter(pc.equal(labels["vertical"], vertical))
    plain = own.set_column(0, "part", own["part"].cast(pa.string()))
    sums = plain.group_by("part").aggregate([("label", "count"), ("label", "sum"), ("label_available_at", "max")])
    states = {}
    for r in sums.to_pylist():
        known_at = max(int(r["label_available_at_max"]), dataset.clock.end(r["part"]) - 1 + delay)
        states[r["part"]] = LabelState(r["label_count"], int(r["label_sum"] or 0), known_at)
    return states


def readable_parts(context: RunContext, space_id: str) -> list[str]:
    """Partitions, in order, of which all is done that a VM of a space is scored on: features, histories, labels.

    One of them may be missing alone, after a step that failed halfway: it must not keep the others from being read.
    """
    own = {"space_id": space_id}
    read = [("features", own), ("histories", own), ("histories", {"space_id": RAW_SPACE}), ("labels", {})]
    found = [context.store.ledger.coverage(table, scope) for table, scope in read]
    return [part for part in found[0] if all(part in entries and entries[part].done for entries in found)]


def mature(states: Mapping[str, LabelState], instant: int) -> list[str]:
    """Partitions, in order, whose labels are all known at ``instant``."""
    return sorted(part for part, state in states.items() if state.known_at <= instant)


def newest_with_positives(states: Mapping[str, LabelState], positives: int) -> list[str]:
    """The fewest newest partitions that hold ``positives``; all of them where they do not suffice."""
    chosen: list[str] = []
    for part in sorted(states, reverse=True):
        if sum(states[p].positives for p in chosen) >= positives:
            break
        chosen.append(part)
    return sorted(chosen)


def require_mature(context: RunContext, vertical: str, parts: list[str]) -> dict[str, LabelState]:
    """Those of ``parts`` that are mature by the end of the newest ingested partition, in order, with their labels.

    A progress line names the others.

    Raises:
        ImmatureError: there is none; the message says up to where to ingest.
    """
    clock, states = context.dataset.clock, label_states(context, vertical, parts)
    ingested = max(p for p, entry in context.store.ledger.coverage("labels", {}).items() if entry.done)
    found = mature(states, clock.end(ingested))
    late = sorted(set(states) - set(found))
    if late:
        until = clock.part_of(max(states[part].known_at for part in late) - 1)
        why = f"labels of {late[0]} .. {late[-1]} become known in {until}, ingested is up to {ingested}"
        if not found:
            raise ImmatureError(
                f"{vertical}: no mature partition in {parts[0]} .. {parts[-1]}: {why}; ingest up to {until}: "
                "`loopfm run` does so with a longer windows.label_wait"
            )
        context.progress(f"{vertical}: not mature, left out: {why}")
    if not found:
        raise ImmatureError(f"{vertical}: no mature partition in {parts[0]} .. {parts[-1]}: they hold no label")
    return {part: states[part] for part in found}
