"""Which partitions are mature: all of their labels are known at the instant used."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.context import RunContext
from pipelines.errors import StepError


@dataclass(frozen=True)
class LabelState:
    """Labels of one vertical in one partition: rows, positives, and when the last one is known (ms)."""

    rows: int
    positives: int
    known_at: int


def label_states(context: RunContext, vertical: str, parts: list[str]) -> dict[str, LabelState]:
    """Per partition with labels, what is known of them."""
    version = context.pin("labels", {}, parts)
    columns = ["part", "vertical", "label", "label_available_at"]
    labels = context.store.arrow("labels", version, {}, parts, columns)
    own = labels.filter(pc.equal(labels["vertical"], vertical))
    plain = own.set_column(0, "part", own["part"].cast(pa.string()))
    sums = plain.group_by("part").aggregate([("label", "count"), ("label", "sum"), ("label_available_at", "max")])
    rows = sums.to_pylist()
    return {
        r["part"]: LabelState(r["label_count"], int(r["label_sum"] or 0), int(r["label_available_at_max"]))
        for r in rows
    }


def mature(states: dict[str, LabelState], instant: int | None) -> list[str]:
    """Partitions, in order, whose labels are all known at ``instant``; None stands for the newest label there is."""
    if instant is None:
        instant = max((state.known_at for state in states.values()), default=0)
    return sorted(part for part, state in states.items() if state.known_at <= instant)


def newest_with_positives(states: dict[str, LabelState], parts: list[str], positives: int) -> list[str]:
    """The fewest newest ``parts`` that hold ``positives``; all of them where they do not suffice."""
    chosen: list[str] = []
    for part in sorted(parts, reverse=True):
        if sum(states[p].positives for p in chosen) >= positives:
            break
        chosen.append(part)
    return sorted(chosen)


def require_mature(context: RunContext, vertical: str, parts: list[str], instant: int | None) -> list[str]:
    """Mature partitions among ``parts``.

    Raises:
        StepError: there is none; the message says when the first becomes mature.
    """
    states = label_states(context, vertical, parts)
    found = mature(states, instant)
    if not found:
        known = min((state.known_at for state in states.values()), default=None)
        raise StepError(
            f"{vertical}: no mature partition in {parts[0]} .. {parts[-1]} (first labels known at {known} ms)"
        )
    return found
