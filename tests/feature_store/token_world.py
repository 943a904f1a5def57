"""Random worlds of examples, labels and FM outputs, and the slow obvious reference of what may be read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from feature_store.config import DatasetConfig
from feature_store.schemas import LABELS, examples_schema, fm_outputs_schema, past_events_schema
from feature_store.spaces import SpaceRecord

START = 1_684_972_800_000  # 2023-05-25
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
CODE_BYTES = 3


def dataset_of(**settings: Any) -> DatasetConfig:
    histories = {
        "keys": {"user": ["user"], "item": ["item"], "taste": ["user", "topic"]},
        "length": settings.pop("length", 3),
        "retention": settings.pop("retention", "30d"),
        "raw_label": settings.pop("raw_label", None),
        "availability": settings.pop("availability", "closed"),
    }
    return DatasetConfig.model_validate(
        {
            "name": "tiny",
            "source": {"read": {"format": "parquet", "paths": ["nowhere"]}},
            "grain": "1h",
            "lag": "5m",
            "entities": {"user": "u", "item": "i"},
            "event_ts": {"value": "ts"},
            "labels": {"click": {"value": "c"}, "buy": {"value": "b"}},
            "features": {
                "topic": {"value": "t", "kind": "categorical"},
                "price": {"value": "p", "kind": "numeric"},
            },
            "fm_features": ["user", "item", "topic", "price"],
            "histories": histories,
            "verticals": {
                "feed": {"label": "click", "features": ["user", "item", "topic"]},
                "shop": {"label": "buy", "features": ["item", "price"]},
            },
            **settings,
        }
    )


@dataclass
class Row:
    """One example with all that is known about it; ``labels`` maps a head to (label, available_at)."""

    example_id: int
    user: int
    item: int
    topic: int | None
    event_ts: int
    arrived_at: int
    z: bytes
    logits: tuple[float, float]
    labels: dict[int, tuple[int, int]] = field(default_factory=dict)
    past_label: int | None = None

    def key(self, name: str) -> Any:
        return {"user": self.user, "item": self.item, "taste": (self.user, self.topic)}[name]

    def in_key(self, name: str) -> bool:
        return name != "taste" or self.topic is not None


def random_rows(seed: int, size: int, *, span: int, step: int, users: int = 3, items: int = 4) -> list[Row]:
    """Rows on a lattice of ``step`` ms, so that equal instants and exact borders are common."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.arange(-5 * size, 5 * size), size, replace=False)
    return [_random_row(rng, int(example_id), span, step, users, items) for example_id in ids]


def _random_row(rng: np.random.Generator, example_id: int, span: int, step: int, users: int, items: int) -> Row:
    event_ts = START + step * int(rng.integers(0, max(1, span // step)))
    late = step * int(rng.integers(0, max(1, span // step))) if rng.random() < 0.3 else 0
    logits = rng.normal(0, 3, 2)
    labels = {
        head: (int(rng.integers(0, 2)), event_ts + step * int(rng.integers(0, 5)))
        for head in range(2)
        if rng.random() < 0.7
    }
    return Row(
        example_id=example_id,
        user=int(rng.integers(0, users)),
        item=int(rng.integers(100, 100 + items)),
        topic=int(rng.integers(7, 9)) if rng.random() < 0.8 else None,
        event_ts=event_ts,
        arrived_at=event_ts + late,
        z=rng.bytes(CODE_BYTES),
        logits=(float(np.float32(logits[0])), float(np.float32(logits[1]))),
        labels=labels,
    )


def examples_table(dataset: DatasetConfig, rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "part": dataset.clock.part_of(r.event_ts),
                **{n: getattr(r, n) for n in ("example_id", "user", "item", "topic", "event_ts", "arrived_at")},
                "impression_id": r.example_id // 3,
                "weight": 1.0,
                "sampling_rate": 1.0,
                "price": r.example_id / 2,
            }
            for r in rows
        ],
        examples_schema(dataset),
    )


def outputs_table(dataset: DatasetConfig, rows: list[Row], space_id: str) -> pa.Table:
    names = ("example_id", "user", "item", "topic", "event_ts", "arrived_at", "z", "logits")
    return pa.Table.from_pylist(
        [
            {
                "space_id": space_id,
                "part": dataset.clock.part_of(r.event_ts),
                **{name: getattr(r, name) for name in names},
            }
            for r in rows
        ],
        fm_outputs_schema(dataset),
    )


def labels_table(dataset: DatasetConfig, rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "part": dataset.clock.part_of(r.event_ts),
                "example_id": r.example_id,
                "vertical": dataset.heads[head],
                "label": label,
                "label_available_at": instant,
            }
            for r in rows
            for head, (label, instant) in r.labels.items()
        ],
        LABELS,
    )


def past_table(dataset: DatasetConfig, rows: list[Row]) -> pa.Table:
    """Past events of the second source; ``past_label`` is their click."""
    return pa.Table.from_pylist(
        [
            {
                "part": dataset.clock.part_of(r.event_ts),
                **{n: getattr(r, n) for n in ("example_id", "user", "item", "event_ts")},
                "label_click": r.past_label,
            }
            for r in rows
        ],
        past_events_schema(dataset),
    )


def token_of(row: Row, *, raw: bool) -> dict[str, Any]:
    """The token that a row becomes, as plain values."""
    heads = range(2)
    return {
        "event_ts": row.event_ts,
        "entities": (row.user, row.item) if raw else (),
        "z": b"" if raw else row.z,
        "logits": () if raw else tuple(float(np.float32(np.float16(v))) for v in row.logits),
        "labels": tuple(row.labels[h][0] if h in row.labels else None for h in heads),
        "label_available_at": tuple(row.labels[h][1] if h in row.labels else None for h in heads),
    }


def border_at_or_before(dataset: DatasetConfig, instant: int) -> int:
    """Newest partition border at or before ``instant``, found in the list of all borders."""
    borders = range(START - 10 * DAY + dataset.day_offset, START + 100 * DAY, dataset.grain)
    return borders[bisect_right(borders, instant) - 1]


def arrival_end(dataset: DatasetConfig, row: Row) -> int:
    return border_at_or_before(dataset, max(row.arrived_at, row.event_ts)) + dataset.grain


def horizon(dataset: DatasetConfig, t: int) -> int:
    """What an example at ``t`` reads as of."""
    at_once = dataset.histories.availability == "at_once"
    return t if at_once else border_at_or_before(dataset, t - dataset.lag)


def is_there(dataset: DatasetConfig, row: Row, t: int) -> bool:
    """Whether an example at ``t`` may know that a row has arrived."""
    if dataset.histories.availability == "at_once":
        return row.arrived_at <= t
    return arrival_end(dataset, row) + dataset.lag <= t


def readable(dataset: DatasetConfig, rows: list[Row], key: str, key_id: Any, t: int, *, raw: bool) -> list[dict]:
    """Tokens that an example at ``t`` reads, newest first: the definition, row by row."""
    oldest = horizon(dataset, t) - dataset.histories.retention
    seen = [
        r
        for r in rows
        if r.in_key(key)
        and r.key(key) == key_id
        and r.event_ts < t
        and is_there(dataset, r, t)
        and r.event_ts >= oldest
    ]
    seen.sort(key=lambda r: (r.event_ts, r.example_id), reverse=True)
    return [token_of(r, raw=raw) for r in seen[: dataset.histories.length]]


def tokens_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Tokens of one packed row given as plain values."""
    n = row["n"]

    def per_token(name: str) -> list[tuple]:
        width = len(row[name]) // n
        return [tuple(row[name][i * width : (i + 1) * width]) for i in range(n)]

    code = len(row["z"]) // n
    return [
        {
            "event_ts": row["event_ts"][i],
            "entities": per_token("entities")[i],
            "z": bytes(row["z"][i * code : (i + 1) * code]),
            "logits": per_token("logits")[i],
            "labels": per_token("labels")[i],
            "label_available_at": per_token("label_available_at")[i],
        }
        for i in range(n)
    ]


def space_of(cutoff: int = START - DAY, **changes: Any) -> SpaceRecord:
    return SpaceRecord(
        **{
            "space_id": "fm-a",
            "inputs_id": "inputs",
            "fm_train_cutoff": cutoff,
            "training_lag_ms": 0,
            "heads": ["feed", "shop"],
            "dim": 2 * CODE_BYTES,
            "bits": 4,
            "captures": ["mlp.0"],
            "model_path": "fm.pt",
            "model_digest": "0",
            "run_id": "run",
        }
        | changes
    )


def parts_of(dataset: DatasetConfig, rows: list[Row]) -> list[str]:
    """All partitions from the oldest row's to the newest row's."""
    parts = [dataset.clock.part_of(row.event_ts) for row in rows]
    return dataset.clock.between(min(parts), max(parts))


def by_key(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """Small batches of rows sorted by key, as Spark hands them over after an exchange."""
    ordered = rows.sort_by([("key_id", "ascending"), ("key", "ascending")])
    return iter(ordered.combine_chunks().to_batches(max_chunksize=7))


def flat_tokens(dataset: DatasetConfig, rows: list[Row], *, raw: bool) -> pa.Table:
    """Input of ``cut_splits``: one row a token, with key ids that the world invents (topic * 1000 + user for taste)."""
    columns: dict[str, Any] = {
        "part": pa.array([dataset.clock.part_of(r.event_ts) for r in rows], pa.string()),
        "example_id": pa.array([r.example_id for r in rows], pa.int64()),
        "event_ts": pa.array([r.event_ts for r in rows], pa.int64()),
        "arrival": pa.array([max(r.arrived_at, r.event_ts) for r in rows], pa.int64()),
    }
    for name in dataset.histories.keys:
        columns[f"key_{name}"] = pa.array([flat_key(r, name) for r in rows], pa.int64())
    for head in range(2):
        known = [r.labels.get(head, (None, None)) for r in rows]
        columns[f"label_{head}"] = pa.array([label for label, _ in known], pa.int8())
        columns[f"available_{head}"] = pa.array([instant for _, instant in known], pa.int64())
    if raw:
        columns |= {name: pa.array([getattr(r, name) for r in rows], pa.int64()) for name in ("user", "item")}
    else:
        columns["z"] = pa.array([r.z for r in rows], pa.binary())
        columns["logits"] = pa.array([r.logits for r in rows], pa.list_(pa.float32()))
    return pa.table(columns)


def flat_key(row: Row, name: str) -> int | None:
    if not row.in_key(name):
        return None
    return row.topic * 1000 + row.user if name == "taste" else row.key(name)


def comparable(rows: list[dict[str, Any]]) -> list[Any]:
    """Rows as sorted plain values: two frames with the same rows compare equal."""
    return sorted(repr({k: list(v) if isinstance(v, bytearray) else v for k, v in row.items()}) for row in rows)
