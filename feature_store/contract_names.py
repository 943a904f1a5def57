"""Columns that the declarations of a data set make: no two may have one name, and none that of a table's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feature_store.config import DatasetConfig

TABLE_COLUMNS = frozenset(
    {
        *("part", "example_id", "event_ts", "arrived_at", "impression_id", "weight", "sampling_rate"),
        *("inputs_id", "space_id", "vertical", "label", "label_available_at", "teacher_logit", "as_of", "z", "logits"),
        *("arrival", "reason", "source_file"),
    }
)
"""Columns that tables and the frames between them have beside the declared ones."""


def check_names(dataset: DatasetConfig) -> None:
    """Refuse a declaration whose column is another's or a table's own: one of the two would be read for the other.

    Raises:
        ValueError: naming the field, the column and the other field.
    """
    owners: dict[str, str] = {}
    for field, column in _made(dataset):
        if column in TABLE_COLUMNS:
            raise ValueError(
                f"{field}: makes column {column!r}, which is a table's own; allowed: any but {sorted(TABLE_COLUMNS)}"
            )
        if column in owners:
            raise ValueError(f"{field}: makes column {column!r}, as {owners[column]} does; use another name")
        owners[column] = field


def _made(dataset: DatasetConfig) -> Iterator[tuple[str, str]]:
    """(field, column) of every declaration; a declaration's own name counts as one, since features are named by it."""
    yield from ((f"entities.{name}", name) for name in dataset.entities)
    for name in dataset.labels:
        yield from ((f"labels.{name}", f"{made}_{name}") for made in ("label", "known"))
    for head, name in enumerate(dataset.verticals):
        yield from ((f"verticals.{name}", f"{made}_{head}") for made in ("label", "available"))
    yield from ((f"histories.keys.{name}", f"key_{name}") for name in dataset.histories.keys)
    yield from ((f"features.{name}", name) for name in dataset.features)
    for feature in dataset.as_of:
        named = [] if feature.columns == [feature.name] else [feature.name]
        yield from ((f"as_of.{feature.name}", column) for column in (*named, *feature.columns))
    for column in dataset.within_impression.columns:
        yield from (("within_impression.columns", f"{column}{suffix}") for suffix in ("_rank", "_diff"))
    for events in dataset.event_lists:
        yield from ((f"event_lists.{events.name}", f"{events.name}{suffix}") for suffix in ("", "_age_hours"))
    counters = {name: None for vertical in dataset.verticals.values() for name in vertical.counters}
    for name in counters:
        yield from ((f"as_of.{name}", f"counter_{column}") for column in dataset.as_of_columns(name) or [])
