"""Sampled negatives against the law written out slowly, over random clicks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.config import NegativeSampling
from feature_store.errors import ContractError
from feature_store.ingest import ingest_frames
from feature_store.sources.negatives import Eligible, draw_items
from tests.feature_store.shop_source import START, row, shop, write

HOUR = 3_600_000
PARTS = ["2026-01-01T00", "2026-01-01T01", "2026-01-01T02", "2026-01-01T03"]
SAMPLING = {"per_positive": 3, "window": "2h", "bucket": "10m", "power": 0.5}


def slow_draw(weights: dict[int, float], own: int, u: float, k: int) -> list[tuple[int, float]]:
    """Walk along the weights, own left out, and pick the item under each of k evenly spaced points."""
    others = {item: w for item, w in sorted(weights.items()) if item != own}
    total = sum(others.values())
    drawn: list[tuple[int, float]] = []
    for j in range(k if others else 0):
        point, upto = (u + j) * total / k, 0.0
        for item, weight in others.items():
            upto += weight
            if point < upto:
                if not drawn or drawn[-1][0] != item:
                    drawn.append((item, min(1.0, k * weight / total)))
                break
    return drawn


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.integers(0, 30), st.integers(1, 20), max_size=12),
    st.lists(st.tuples(st.integers(-1, 31), st.floats(0, 1, exclude_max=True)), min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_a_draw_is_the_slow_walk(weights, positives, k):
    codes = np.array(sorted(weights), dtype=np.int64)
    eligible = Eligible(codes, np.cumsum([float(weights[c]) for c in codes]).astype(np.float64))
    own, uniform = (np.array(column) for column in zip(*positives, strict=True))
    drawn, rates = draw_items(eligible, own.astype(np.int64), uniform, k)
    for i, (item, u) in enumerate(positives):
        got = [(int(c), float(r)) for c, r in zip(drawn[i], rates[i], strict=True) if c >= 0]
        expected = slow_draw({c: float(w) for c, w in weights.items()}, item, u, k)
        total = sum(w for c, w in weights.items() if c != item)
        on_border = any(abs((u + j) * total / k - round((u + j) * total / k)) < 1e-9 for j in range(k))
        if not on_border:
            assert [c for c, _ in got] == [c for c, _ in expected]
            assert [r for _, r in got] == pytest.approx([r for _, r in expected])


def test_an_item_is_drawn_as_often_as_its_rate_says():
    """Sum of 1 / rate is an unbiased count of the eligible items; each item's frequency is its rate."""
    weights, n, k = np.array([1.0, 2.0, 5.0, 30.0]), 200_000, 3
    eligible = Eligible(np.arange(4), np.cumsum(weights))
    uniform = np.random.default_rng(3).random(n)
    drawn, rates = draw_items(eligible, np.full(n, 1), uniform, k)
    frequency = np.array([(drawn == item).sum() / n for item in range(4)])
    assert frequency == pytest.approx([3 / 36, 0, 15 / 36, 1], abs=5e-3)
    assert (1 / rates[drawn >= 0]).sum() / n == pytest.approx(3, rel=0.01)


def clicks(seed: int, n: int = 400) -> list[dict]:
    random = np.random.default_rng(seed)
    times = START + np.sort(random.integers(0, 4 * HOUR, n))
    items = np.minimum(random.geometric(0.15, n), 30)
    return [
        row(i, time=int(t), arrived=int(t), user=int(random.integers(20)), item=int(item))
        for i, (t, item) in enumerate(zip(times, items, strict=True))
    ]


def click_shop(path, **changes):
    sampling = SAMPLING | changes.pop("negatives", {})
    return shop(
        path,
        source={"negatives": sampling},
        grain="1h",
        weight=None,
        impression_id="xxhash64(user, time)",
        labels={"click": {"value": "1"}},
        **changes,
    )


def ingested(spark, dataset, parts):
    frames = ingest_frames(spark, dataset, parts)
    try:
        labels = {r["example_id"]: r["label"] for r in frames.labels.where("vertical = 'all'").collect()}
        return [r.asDict() | {"label": labels[r["example_id"]]} for r in frames.examples.collect()]
    finally:
        frames.release()


def test_negatives_were_seen_strictly_before_and_their_rate_is_the_law(spark, tmp_path):
    rows = clicks(1)
    dataset = click_shop(write(tmp_path / "c.parquet", rows))
    examples = ingested(spark, dataset, PARTS)
    by_impression: dict[int, list[dict]] = {}
    for example in examples:
        by_impression.setdefault(example["impression_id"], []).append(example)
    assert len(by_impression) == len(rows)
    checked = 0
    for group in by_impression.values():
        (positive,) = [e for e in group if e["label"] == 1]
        negatives = [e for e in group if e["label"] == 0]
        bucket = positive["event_ts"] // 600_000 * 600_000
        seen: dict[int, int] = {}
        for click in rows:
            if bucket - 2 * HOUR <= click["time"] < bucket:
                seen[click["item"]] = seen.get(click["item"], 0) + 1
        seen.pop(positive["item"], None)
        total = sum(count**0.5 for count in seen.values())
        assert positive["sampling_rate"] == 1.0
        assert len({e["item"] for e in negatives}) == len(negatives) <= 3
        assert bool(negatives) == bool(seen)
        for e in negatives:
            assert e["sampling_rate"] == pytest.approx(min(1.0, 3 * seen[e["item"]] ** 0.5 / total), rel=1e-6)
            assert (e["event_ts"], e["user"]) == (positive["event_ts"], positive["user"])
            checked += 1
    assert checked > 900


def test_a_partition_alone_has_the_negatives_that_it_has_in_a_range(spark, tmp_path):
    dataset = click_shop(write(tmp_path / "c.parquet", clicks(2)))
    together = ingested(spark, dataset, PARTS)
    alone = ingested(spark, dataset, PARTS[2:3])
    assert sorted(map(repr, alone)) == sorted(repr(e) for e in together if e["part"] == PARTS[2])


def test_the_seed_changes_the_draws_and_text_items_are_drawn_too(spark, tmp_path):
    path = write(tmp_path / "c.parquet", clicks(3, 150))
    first = {e["example_id"] for e in ingested(spark, click_shop(path), PARTS)}
    other = {e["example_id"] for e in ingested(spark, click_shop(path, negatives={"seed": 5}), PARTS)}
    assert first != other
    text = click_shop(path, entities={"user": "user", "item": "category"})
    assert {e["label"] for e in ingested(spark, text, PARTS)} == {0, 1}


def test_the_item_must_be_a_column_so_that_it_can_be_replaced(spark, tmp_path):
    dataset = click_shop(write(tmp_path / "c.parquet", clicks(4, 10)), entities={"user": "user", "item": "item + 1"})
    with pytest.raises(ContractError, match=r"entities\.item: got 'item \+ 1'; with source\.negatives"):
        ingest_frames(spark, dataset, PARTS)


def test_a_window_is_whole_buckets():
    with pytest.raises(ValueError, match="window: got 900000 ms; allowed: a multiple of bucket"):
        NegativeSampling(per_positive=1, window="15m", bucket="10m")
