"""Events of event lists: of two sources, each once, in the order of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feature_store.asof_chunk import Chunk
from feature_store.asof_core import Flags, Ints
from feature_store.asof_plan import list_measure
from feature_store.asof_rows import AVAILABLE, PAST_EVENT, entity_column
from feature_store.config import EventList


@dataclass(frozen=True)
class Events:
    """Events sorted by key, event_ts and example_id; all int64 [n], ``key`` as dense ranks."""

    key: Ints
    event_ts: Ints
    available: Ints
    example_id: Ints
    entity: Ints

    def take(self, rows: Ints) -> Events:
        """The events at positions ``rows``."""
        return Events(
            self.key[rows], self.event_ts[rows], self.available[rows], self.example_id[rows], self.entity[rows]
        )

    def in_order(self) -> Events:
        """The same events, oldest first within a key."""
        return self.take(np.lexsort((self.example_id, self.event_ts, self.key)))


def visible_events(chunk: Chunk, event_list: EventList, ranks: Ints) -> Events:
    """All events that some query may see, in order: examples, past events and those kept by partial rows."""
    own = raw_events(chunk, event_list, ranks)
    rows = chunk.partial_rows(ranks, list_measure(event_list))
    if not len(rows):
        return own.in_order()
    kept = _events(chunk, event_list, ranks, rows, chunk.ints(AVAILABLE))
    fields = ("key", "event_ts", "available", "example_id", "entity")
    return Events(*(np.concatenate([getattr(own, f), getattr(kept, f)]) for f in fields)).in_order()


def raw_events(chunk: Chunk, event_list: EventList, ranks: Ints) -> Events:
    """Events of examples and past events; one that both hold counts once, from when it is first known."""
    qualifies: Flags = (chunk.kind <= PAST_EVENT) & (ranks >= 0) & chunk.given(entity_column(event_list))
    known_at = chunk.event_ts
    if event_list.label:
        known, value, known_at = chunk.labels(event_list.label)
        qualifies &= known & (value == 1)
    available = chunk.clock.available(chunk.event_ts, chunk.arrived_at, known_at)
    events = _events(chunk, event_list, ranks, np.flatnonzero(qualifies), available)
    same = np.stack([events.key, events.event_ts, chunk.ints("user")[qualifies], chunk.ints("item")[qualifies]])
    order = np.lexsort((-events.example_id, events.available, *same[::-1]))
    repeated = np.zeros(len(order), dtype=bool)
    repeated[1:] = (same[:, order[1:]] == same[:, order[:-1]]).all(axis=0)
    return events.take(order[~repeated])


def _events(chunk: Chunk, event_list: EventList, ranks: Ints, rows: Ints, available: Ints) -> Events:
    entity, example_id = chunk.ints(entity_column(event_list)), chunk.ints("example_id")
    return Events(ranks[rows], chunk.event_ts[rows], available[rows], example_id[rows], entity[rows])
