"""A small shop whose files the tests write by hand: good rows, and any fault that a source can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.config import DatasetConfig

DAY = 86_400_000
START = 1_767_225_600_000  # 2026-01-01
PARTS = ["2026-01-01", "2026-01-02", "2026-01-03"]

SCHEMA = pa.schema(
    [
        ("user", pa.int64()),
        ("item", pa.int32()),
        ("time", pa.int64()),
        ("arrived", pa.int64()),
        ("price", pa.float64()),
        ("category", pa.string()),
        ("click", pa.float64()),
        ("share", pa.float64()),
    ]
)

CONTRACT: dict[str, Any] = {
    "name": "shop",
    "grain": "1d",
    "lag": "1h",
    "entities": {"user": "user", "item": "item"},
    "event_ts": {"value": "time", "unit": "ms"},
    "arrived_at": {"value": "arrived", "unit": "ms"},
    "weight": "share",
    "labels": {"click": {"value": "click", "delay": "2h"}},
    "features": {
        "category": {"value": "category", "kind": "categorical"},
        "price": {"value": "price", "kind": "numeric"},
    },
    "fm_features": ["category", "price"],
    "verticals": {
        "all": {"label": "click", "features": ["price"]},
        "cheap": {"label": "click", "where": "price < 5", "features": ["price"]},
    },
    "checks": {"max_reject_share": 1.0},
}


def shop(path: Path | str, **changes: Any) -> DatasetConfig:
    """The shop's contract over Parquet files; ``source`` of ``changes`` is merged, other fields are replaced."""
    source = {"read": {"format": "parquet", "paths": [str(path)]}} | changes.pop("source", {})
    return DatasetConfig.model_validate(CONTRACT | {"source": source} | changes)


def row(number: int = 0, day: int = 0, **changes: Any) -> dict[str, Any]:
    """A good row; ``number`` tells rows apart."""
    time = START + day * DAY + number * 1000
    good = {
        "user": number % 7,
        "item": number % 5,
        "time": time,
        "arrived": time,
        "price": float(number % 10),
        "category": f"c{number % 3}",
        "click": float(number % 2),
        "share": 1.0,
    }
    return good | changes


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> Path:
    """Rows as one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path
