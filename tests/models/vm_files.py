"""Tables ``features`` and ``histories`` of a tiny world, written by hand in the store's schemas."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.config import DatasetConfig
from feature_store.schemas import HISTORIES, features_schema
from models.codec import pack
from models.config import FeatureSpec
from models.feed_files import FeedFiles
from models.vm_data import VmInputs

HOUR = 3_600_000
START = 472_200 * HOUR
SPACE = "fm-abc"
CODE_DIM = 4
HEADS = ["feed", "story"]

DATASET = DatasetConfig.model_validate(
    {
        "name": "tiny",
        "source": {"world": {}},
        "grain": "1h",
        "lag": "5m",
        "entities": {"user": "user", "item": "item"},
        "event_ts": {"value": "event_ts", "unit": "ms"},
        "labels": {"click": {"value": "click"}},
        "features": {
            "device": {"value": "device", "kind": "categorical"},
            "price": {"value": "price", "kind": "numeric"},
            "tags": {"value": "tags", "kind": "categorical_list"},
            "shape": {"value": "shape", "kind": "numeric_list"},
        },
        "as_of": [{"name": "seen", "kind": "count", "key": ["item"], "windows": ["1d"]}],
        "fm_features": ["user", "item"],
        "verticals": {
            name: {
                "label": "click",
                "features": ["user", "item", "device", "price", "tags", "shape"],
                "counters": ["seen"],
            }
            for name in HEADS
        },
    }
)
INPUTS = VmInputs(
    vertical="feed",
    heads=HEADS,
    space_id=SPACE,
    features=[
        FeatureSpec(name="user", kind="categorical"),
        FeatureSpec(name="item", kind="categorical"),
        FeatureSpec(name="device", kind="categorical"),
        FeatureSpec(name="price", kind="numeric"),
    ],
    counters=["counter_seen_1d"],
    entities=["user", "item"],
    code_dim=CODE_DIM,
    code_bits=4,
)


@dataclass(frozen=True)
class File:
    """A data file as the store lists it."""

    path: str
    partition: dict[str, str]
    rows: int


@dataclass
class World:
    """Rows as lists of dicts, so that references stay plain loops."""

    rows: list[dict]
    parts: list[str]
    length: int
    label_delay: int
    histories: dict = field(default_factory=dict)

    def table(self, part: str) -> pa.Table:
        """Table ``features`` of a part."""
        return pa.Table.from_pylist([r for r in self.rows if r["part"] == part], features_schema(DATASET))

    def histories_table(self, space: str, key: str, part: str) -> pa.Table:
        """Table ``histories`` of a key and part."""
        return pa.Table.from_pylist(self.histories[space, key, part], HISTORIES)

    def write(self, root: Path, parts: list[str] | None = None, files_a_part: int = 1) -> FeedFiles:
        """Parquet files as Delta lays them out: without the partition columns."""
        parts = parts or self.parts
        features = [f for p in parts for f in _write(root, "features", p, self.table(p), files_a_part)]
        by_space: dict = {SPACE: {}, "raw": {}}
        for space, keys in by_space.items():
            for key in ("user", "item"):
                tables = [(part, self.histories_table(space, key, part)) for part in parts]
                keys[key] = [f for p, t in tables for f in _write(root, f"{space}-{key}", p, t, 1, space)]
        return FeedFiles(features, by_space[SPACE], by_space["raw"])


def _write(root: Path, name: str, part: str, table: pa.Table, files: int, space: str = SPACE) -> list[File]:
    folder = root / name / f"part={part}"
    folder.mkdir(parents=True, exist_ok=True)
    table = table.drop_columns([c for c in ("space_id", "vertical", "key", "part") if c in table.column_names])
    written = []
    for place in range(files):
        rows = table.take(np.arange(place, table.num_rows, files))
        path = folder / f"{place}.parquet"
        pq.write_table(rows, path)
        written.append(File(str(path), {"space_id": space, "part": part}, rows.num_rows))
    return written


def make_world(
    seed=0, rows=300, hours=6, users=8, items=5, length=4, label_delay=HOUR // 2, lag=5 * 60_000, slate=1
) -> World:
    """A world whose label depends on the FM's vectors of the item's past; every ``slate`` rows come at one instant."""
    rng = np.random.default_rng(seed)
    instants = np.sort(rng.integers(START, START + hours * HOUR, rows))
    quality = rng.normal(size=items)
    instants = instants[np.arange(rows) // slate * slate]
    made = [_row(rng, i, int(t), users, items, quality, label_delay, lag) for i, t in enumerate(instants)]
    parts = sorted({r["part"] for r in made})
    world = World(made, parts, length, label_delay)
    for part in parts:
        for key in ("user", "item"):
            wanted = {(r[f"key_{key}"], r["as_of"]) for r in made if r["part"] == part and r["as_of"] is not None}
            for space in (SPACE, "raw"):
                histories = [_history(world, space, key, part, *w) for w in sorted(wanted)]
                world.histories[space, key, part] = [h for h in histories if h["n"]]
    return world


def part_of(instant: int) -> str:
    """Name of the hour's partition."""
    return np.datetime64(instant // HOUR * HOUR, "ms").astype(object).strftime("%Y-%m-%dT%H")


def _row(rng, index, event_ts, users, items, quality, label_delay, lag):
    item, user = int(rng.integers(items)), int(rng.integers(users))
    logit = float(np.float16(quality[item] + rng.normal() * 0.3))
    label = int(rng.random() < 1 / (1 + np.exp(-2 * quality[item])))
    as_of = (event_ts - lag) // HOUR * HOUR
    return {
        "space_id": SPACE,
        "vertical": "feed",
        "part": part_of(event_ts),
        "example_id": index * 7 - 3,
        "user": user + 100,
        "item": item + 10,
        "event_ts": event_ts,
        "impression_id": None if index % 11 == 0 else index // 3,
        "weight": float(np.float32(0.5 + rng.random())),
        "sampling_rate": float(np.float32(1.0 if label else 0.5)),
        "label": None if index % 17 == 0 else label,
        "label_available_at": event_ts + label_delay,
        "teacher_logit": None if index % 5 == 0 else logit,
        "as_of": None if index % 23 == 0 else as_of,
        "key_user": user + 100,
        "key_item": item + 10,
        "device": None if index % 13 == 0 else int(rng.integers(3)),
        "price": None if index % 19 == 0 else float(np.float32(rng.gamma(2.0))),
        "tags": [int(t) for t in rng.integers(0, 4, rng.integers(0, 3))],
        "shape": [float(np.float32(v)) for v in rng.normal(size=2)],
        "counter_seen_1d": float(rng.integers(20)),
        "z": np.tanh(rng.normal(size=CODE_DIM) + quality[item]).astype(np.float32),
        "logits": [logit, logit - 1],
        "vertical_labels": [label, None],
    }


def _history(world, space, key, part, key_id, as_of):
    """Tokens that arrived before as_of, newest first; a token's hour of arrival is its own."""
    past = [r for r in world.rows if r[f"key_{key}"] == key_id and r["event_ts"] // HOUR * HOUR + HOUR <= as_of]
    tokens = sorted(past, key=lambda r: (-r["event_ts"], -r["example_id"]))[: world.length]
    fm = space != "raw"
    codes = [pack(t["z"], 4).tobytes() for t in tokens] if fm else []
    return {
        "space_id": space,
        "key": key,
        "part": part,
        "key_id": key_id,
        "as_of": as_of,
        "n": len(tokens),
        "event_ts": [t["event_ts"] for t in tokens],
        "entities": [] if fm else [e for t in tokens for e in (t["user"], t["item"])],
        "z": b"".join(codes),
        "logits": [v for t in tokens for v in t["logits"]] if fm else [],
        "labels": [v for t in tokens for v in t["vertical_labels"]],
        "label_available_at": [v for t in tokens for v in (t["label_available_at"], None)],
    }
