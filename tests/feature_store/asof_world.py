"""Small random worlds with every awkward case, and the slow, obvious reference for as-of features over them."""

import numpy as np
import pyarrow as pa

from feature_store.clocks import HOUR_MS, MINUTE_MS, duration_ms
from feature_store.config import DatasetConfig
from feature_store.schemas import LABELS, examples_schema, past_events_schema

START = 1_767_225_600_000


def dataset(**changes):
    """Two verticals that share a label and a third with its own; features of every kind over four keys."""
    settings = {
        "name": "tiny",
        "source": {"world": {}},
        "grain": "1h",
        "lag": "5m",
        "entities": {"user": "user", "item": "item"},
        "event_ts": {"value": "event_ts"},
        "impression_id": "impression_id",
        "labels": {"click": {"value": "click", "delay": "10m"}, "buy": {"value": "buy", "delay": "90m"}},
        "features": {
            "topic": {"value": "topic", "kind": "categorical"},
            "price": {"value": "price", "kind": "numeric"},
            "tags": {"value": "tags", "kind": "categorical_list"},
        },
        "as_of": [
            {"name": "item_seen", "kind": "count", "key": ["item"], "windows": ["30m", "2h", "ever"]},
            {
                "name": "item_clicks",
                "kind": "label_count",
                "key": ["item"],
                "label": "click",
                "windows": ["2h", "ever"],
            },
            {"name": "item_rate", "kind": "label_rate", "key": ["item"], "label": "click", "windows": ["1h", "ever"]},
            {"name": "item_age", "kind": "age", "key": ["item"]},
            {"name": "user_buys", "kind": "label_count", "key": ["user"], "label": "buy", "windows": ["3h", "ever"]},
            {"name": "user_age", "kind": "age", "key": ["user"]},
            {"name": "pair_seen", "kind": "count", "key": ["user", "item"], "windows": ["90m", "ever"]},
            {"name": "topic_rate", "kind": "label_rate", "key": ["user", "topic"], "label": "buy", "windows": ["ever"]},
        ],
        "event_lists": [
            {"name": "clicked", "key": ["user"], "entity": "item", "length": 3, "label": "click"},
            {"name": "viewers", "key": ["item"], "entity": "user", "length": 2},
        ],
        "within_impression": {"columns": ["item_seen_ever", "pair_seen_90m"]},
        "fm_features": [
            *("user", "item", "price", "tags", "item_seen", "item_clicks", "item_rate", "item_age", "user_buys"),
            *("user_age", "pair_seen", "topic_rate", "clicked", "viewers"),
        ],
        "verticals": {
            "front": {"label": "click", "features": ["item"], "counters": ["item_seen", "item_rate", "item_age"]},
            "feed": {"label": "click", "features": ["item"], "counters": ["user_buys", "pair_seen"]},
            "shop": {"label": "buy", "features": ["item"], "counters": ["topic_rate", "item_clicks", "user_age"]},
        },
    }
    return DatasetConfig.model_validate(settings | changes)


def world(config, seed, rows=70, hours=7):
    """Examples, labels and past events as lists of dicts: equal instants, borders, late rows, unknown labels, nulls."""
    rng = np.random.default_rng(seed)
    examples, labels = [], []
    for number in range(rows):
        event = START + int(rng.integers(0, hours * 6)) * 10 * MINUTE_MS + int(rng.choice([0, 0, 1, -1, 777]))
        late = int(rng.choice([0, 0, 0, 5 * MINUTE_MS, 2 * HOUR_MS]))
        example = {
            "part": config.clock.part_of(event),
            "example_id": int(rng.integers(-(2**62), 2**62)),
            "user": int(rng.integers(0, 4)),
            "item": int(rng.integers(0, 5)),
            "event_ts": event,
            "arrived_at": event + late,
            "impression_id": None if rng.random() < 0.2 else event // MINUTE_MS,
            "weight": None if rng.random() < 0.3 else float(np.float32(rng.random() * 3)),
            "sampling_rate": float(np.float32(rng.choice([1.0, 0.3]))),
            "topic": None if rng.random() < 0.2 else int(rng.integers(0, 2)),
            "price": None if number % 9 == 0 else float(number),
            "tags": [number, number + 1] if number % 3 else None,
        }
        examples.append(example)
        labels += _labels(rng, example)
    return examples, labels, _past(config, rng, examples)


def _labels(rng, example):
    rows = []
    click, buy = int(rng.random() < 0.5), int(rng.random() < 0.4)
    verticals = [v for v in ("front", "feed") if rng.random() < 0.7]
    delay = int(rng.choice([0, 10 * MINUTE_MS, 20 * MINUTE_MS, 3 * HOUR_MS]))
    for vertical in verticals:
        rows.append((vertical, click, delay))
    if rng.random() < 0.7:
        rows.append(("shop", buy, int(rng.choice([0, 90 * MINUTE_MS, 100 * MINUTE_MS]))))
    return [
        {
            "part": example["part"],
            "example_id": example["example_id"],
            "vertical": vertical,
            "label": value,
            "label_available_at": example["event_ts"] + delay,
        }
        for vertical, value, delay in rows
    ]


def _past(config, rng, examples):
    past = []
    for number in range(12):
        source = examples[number] if number % 2 else None
        event = source["event_ts"] if source else START - int(rng.integers(0, 5)) * HOUR_MS
        past.append(
            {
                "part": config.clock.part_of(event),
                "example_id": 1_000 + number,
                "user": source["user"] if source else int(rng.integers(0, 4)),
                "item": source["item"] if source else int(rng.integers(0, 5)),
                "event_ts": event,
                "label_click": int(rng.random() < 0.8),
                "label_buy": None,
            }
        )
    return past


def frames(spark, config, examples, labels, past):
    """The three lists as Spark frames with the tables' schemas."""
    tables = [(examples, examples_schema(config)), (labels, LABELS), (past, past_events_schema(config))]
    return [spark.createDataFrame(pa.Table.from_pylist(rows, schema=schema)) for rows, schema in tables]


class Reference:
    """As-of features of one clock by looking at every earlier row, one query at a time."""

    def __init__(self, config, clock, examples, labels, past):
        self.config, self.clock, self.examples, self.past = config, clock, examples, past
        self.labels = {}
        for row in labels:
            name = config.verticals[row["vertical"]].label
            self.labels[row["example_id"], name] = (row["label"], row["label_available_at"])

    def columns(self, row, features):
        tau, made = self._tau(row), {}
        for feature in features:
            if feature.kind == "age":
                first = [e["event_ts"] for e, _ in self._seen(row, feature, tau)]
                made[feature.name] = (tau - min(first)) / HOUR_MS if first else -1.0
            for window in feature.windows:
                rows = [
                    (_units(e), value)
                    for e, value in self._seen(row, feature, tau)
                    if window == "ever" or e["event_ts"] >= tau - duration_ms(window)
                ]
                total, positive = sum(u for u, _ in rows), sum(u * (v or 0) for u, v in rows)
                if feature.kind == "label_rate":
                    made[f"{feature.name}_{window}"] = positive / total if total else 0.0
                else:
                    made[f"{feature.name}_{window}"] = (total if feature.kind == "count" else positive) / 2**20
        return {name: float(np.float32(value)) for name, value in made.items()}

    def _tau(self, row):
        return row["event_ts"] if self.clock == "fm" else self.config.clock.as_of(row["event_ts"], self.config.lag)

    def _seen(self, row, feature, tau):
        for other in self.examples:
            value, known = self.labels.get((other["example_id"], feature.label), (None, None))
            if feature.label and known is None:
                continue
            if _same(row, other, feature.key) and self._available(other, known) <= tau:
                yield other, value

    def _available(self, other, known):
        event = other["event_ts"]
        if self.clock == "fm":
            return max(known or 0, event + 1)
        return self.config.clock.close(max(known or 0, other.get("arrived_at", event), event))

    def event_list(self, row, declared):
        seen, tau = {}, self._tau(row)
        for other in self.examples + self.past:
            value, known = None, other["event_ts"]
            if declared.label:
                value, known = self._label(other, declared.label)
            if declared.label and not value:
                continue
            known = self._available(other, known)
            if _same(row, other, declared.key) and known <= tau:
                identity = (other["user"], other["item"], other["event_ts"])
                entry = (-known, other["example_id"], other)
                seen[identity] = max(seen.get(identity, entry), entry, key=lambda e: e[:2])
        order = sorted(seen.values(), key=lambda e: (e[2]["event_ts"], e[1]), reverse=True)[: declared.length]
        ages = [float(np.float32((tau - e["event_ts"]) / HOUR_MS)) for _, _, e in order]
        return [e[declared.entity] for _, _, e in order], ages

    def _label(self, other, label):
        if "label_click" in other:
            return other[f"label_{label}"], other["event_ts"] + self.config.labels[label].delay
        return self.labels.get((other["example_id"], label), (None, 0))

    def within(self, row, column, values):
        """Rank and difference of ``values`` (example_id -> value) in the impression of ``row``."""
        if row["impression_id"] is None:
            return 0.0, 0.0
        same = ("impression_id", "event_ts")
        peers = [values[e["example_id"]] for e in self.examples if all(e[name] == row[name] for name in same)]
        own = values[row["example_id"]]
        return float(sum(value > own for value in peers)), own - sum(peers) / len(peers)


def _same(row, other, key):
    return all(row[name] is not None and row[name] == other.get(name) for name in key)


def _units(row):
    weight = 1.0 if row["weight"] is None else row["weight"]
    return int(np.floor(weight / row["sampling_rate"] * 2**20 + 0.5))
