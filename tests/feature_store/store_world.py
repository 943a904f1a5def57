"""Small valid rows of every table that the store's tests write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_store.clocks import HOUR_MS
from feature_store.commits import StepInfo
from feature_store.spaces import SpaceRecord
from feature_store.tables import TableStore

STEP = StepInfo("ingest", 1, "settings-1", "run-1", "commit-1")
DAY_1, DAY_2, DAY_3 = "2026-01-01", "2026-01-02", "2026-01-03"
SPACE = SpaceRecord("fm-a", "inputs", 0, 0, ["feed", "shop"], 4, 4, ["mlp.0"], "fm.pt", "digest", "run-1")


def example(store: TableStore, part: str, number: int, **changes: Any) -> dict[str, Any]:
    event_ts = store.clock.start(part) + number
    row = {"part": part, "example_id": number, "user": number % 3, "item": 7, "event_ts": event_ts}
    row |= {"arrived_at": event_ts, "impression_id": None, "weight": 1.0, "sampling_rate": 1.0}
    return row | {"category": 1, "price": 0.5} | changes


def label(store: TableStore, part: str, number: int, **changes: Any) -> dict[str, Any]:
    row = {"part": part, "example_id": number, "vertical": "feed", "label": 1}
    return row | {"label_available_at": store.clock.end(part)} | changes


def output(store: TableStore, part: str, number: int, **changes: Any) -> dict[str, Any]:
    row = {"space_id": SPACE.space_id, **example(store, part, number), "z": b"\x01\x02", "logits": [0.1, 0.2]}
    return {name: row[name] for name in store.schema("fm_outputs").names} | changes


def tokens(store: TableStore, part: str, n: int) -> dict[str, Any]:
    start = store.clock.start(part)
    lists = {"event_ts": [start] * n, "entities": [], "z": b"\x01\x02" * n, "logits": [0.0] * 2 * n}
    return {"n": n, **lists, "labels": [None] * 2 * n, "label_available_at": [None] * 2 * n}


def segment(store: TableStore, part: str, number: int, **changes: Any) -> dict[str, Any]:
    row = {"space_id": SPACE.space_id, "key": "user", "part": part, "key_id": number}
    row |= {"arrival_end": store.clock.end(part), "example_id": [1, 2]}
    return row | tokens(store, part, 2) | changes


def history(store: TableStore, part: str, number: int, **changes: Any) -> dict[str, Any]:
    row = {"space_id": SPACE.space_id, "key": "user", "part": part, "key_id": number}
    return row | {"as_of": store.clock.start(part)} | tokens(store, part, 2) | changes


def features(store: TableStore, part: str, number: int, **changes: Any) -> dict[str, Any]:
    row = dict.fromkeys(store.schema("features").names)
    row |= {"space_id": SPACE.space_id, "vertical": "feed", "as_of": store.clock.start(part)}
    return row | {k: v for k, v in example(store, part, number).items() if k in row} | changes


ROWS = {
    "examples": example,
    "labels": label,
    "fm_outputs": output,
    "segments": segment,
    "histories": history,
    "features": features,
}


def frame(spark: Any, store: TableStore, table: str, rows: list[dict[str, Any]]) -> Any:
    """Rows as a Spark frame of the table's own schema."""
    return spark.createDataFrame(pa.Table.from_pylist(rows, schema=store.schema(table)))


def commit(spark: Any, store: TableStore, rows: list[dict[str, Any]], parts: list[str], table: str = "labels") -> int:
    """Write ``rows`` in one attempt."""
    scope = {"space_id": SPACE.space_id} if "space_id" in store.schema(table).names else {}
    return store.commit(store.begin(table, scope, parts, STEP, {}), frame(spark, store, table, rows))


def ids(store: TableStore, version: int, parts: list[str] | None = None, table: str = "labels") -> list[int]:
    """example_id of the rows at a version, sorted."""
    return sorted(store.arrow(table, version, {}, parts, ["example_id"])["example_id"].to_pylist())


def age(store: TableStore, table: str, version: int, hours: int) -> None:
    """Make a commit and all that it did ``hours`` older."""
    path = Path(store.path(table)) / "_delta_log" / f"{version:020d}.json"
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    for action in actions:
        for kind, field in (("commitInfo", "timestamp"), ("add", "modificationTime"), ("remove", "deletionTimestamp")):
            if kind in action:
                action[kind][field] -= hours * HOUR_MS
    path.write_text("\n".join(json.dumps(action) for action in actions))
