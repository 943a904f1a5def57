"""The generated world: reproducible piece by piece, and right about its own chances."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from feature_store.clocks import DAY_MS, HOUR_MS, PartitionClock
from feature_store.config import WorldConfig
from feature_store.errors import ContractError
from feature_store.ingest import ingest_frames, source_parts
from feature_store.world.effects import VERTICALS, expected_probability, sigmoid
from feature_store.world.rows import BAD_KINDS, CHUNK_ROWS, WorldGrid, world_rows
from feature_store.world.states import HiddenStates, persistence
from feature_store.world.truth import world_truth
from pipelines.config import load_config
from tests.conftest import make_dataset

SMALL = {"days": 4, "rows_per_day": 3000, "users": 300, "items": 60}


def demo(grain: str = "1d", lag: str = "1h", **world):
    dataset = load_config("conf/demo.yaml").dataset.model_dump()
    dataset |= {"grain": grain, "lag": lag, "source": {"world": SMALL | world}}
    return type(load_config("conf/demo.yaml").dataset).model_validate(dataset)


def collected(spark, dataset, parts):
    frames = ingest_frames(spark, dataset, parts)
    try:
        return [sorted(map(repr, f.collect())) for f in (frames.examples, frames.labels, frames.quarantine)]
    finally:
        frames.release()


def normalized_entropy(label: np.ndarray, p: np.ndarray) -> float:
    base = label.mean()
    loss = -(label * np.log(p) + (1 - label) * np.log(1 - p)).mean()
    return float(loss / -(base * np.log(base) + (1 - base) * np.log(1 - base)))


def test_a_partition_alone_is_the_same_as_in_a_range(spark):
    dataset = demo(grain="6h", bad_share=0.02, late_share=0.05, rows_per_day=1200)
    parts = dataset.clock.between("2026-01-01T18", "2026-01-02T06")
    together = collected(spark, dataset, parts)
    assert all(together)
    singly = collected(spark, dataset, parts[1:2])
    assert singly == [[r for r in frame if f"part='{parts[1]}'" in r] for frame in together]


def test_every_planted_fault_is_found_and_nothing_else(spark):
    dataset = demo(bad_share=0.02)
    parts = dataset.clock.between(*source_parts(spark, dataset))
    grid = WorldGrid.of(dataset.source.world, dataset.clock)
    planted = Counter(
        BAD_KINDS[kind] for _, r in world_rows(grid, grid.cells(grid.start, grid.end)) for kind in r.bad[r.bad >= 0]
    )
    frames = ingest_frames(spark, dataset, parts)
    found = Counter(r["reason"] for r in frames.quarantine.collect())
    rows = frames.examples.count()
    frames.release()
    found["label"] = found.pop("label click outside {0, 1}") + found.pop("label purchase outside {0, 1}")
    names = {
        "null time": "null event_ts",
        "not finite": "non-finite context",
        "early arrival": "arrived_at before event_ts",
    }
    assert found == {names.get(kind, kind): count for kind, count in planted.items()}
    assert rows == SMALL["rows_per_day"] * SMALL["days"] - planted.total() + planted["duplicate"]


def test_truth_is_about_the_valid_rows(spark):
    dataset = demo(bad_share=0.02)
    parts = dataset.clock.between("2026-01-02", "2026-01-03")
    truth = world_truth(dataset, parts)
    frames = ingest_frames(spark, dataset, parts)
    rows = {(r["part"], r["user"], r["item"], r["event_ts"]) for r in frames.examples.collect()}
    frames.release()
    assert {tuple(r.values()) for r in truth.select(["part", "user", "item", "event_ts"]).to_pylist()} == rows


def test_late_rows_and_late_labels(spark):
    dataset = demo(late_share=0.2, bad_share=0.0)
    frames = ingest_frames(spark, dataset, ["2026-01-02"])
    late = frames.examples.where("arrived_at > event_ts").count() / frames.examples.count()
    later_part = frames.examples.where(f"floor(arrived_at / {DAY_MS}) > floor(event_ts / {DAY_MS})").count()
    joined = frames.labels.join(frames.examples, "example_id")
    shop = joined.where("vertical = 'shop'").selectExpr("min(label_available_at - event_ts)").collect()[0][0]
    feed = joined.where("vertical = 'feed' and arrived_at = event_ts").selectExpr("max(label_available_at - event_ts)")
    assert late == pytest.approx(0.2, abs=0.03)
    assert later_part > 0
    assert shop >= HOUR_MS
    assert feed.collect()[0][0] == 0
    frames.release()


def test_sizes_are_settings_and_cells_stream():
    """100 M rows a year are never held: a chunk has at most CHUNK_ROWS rows, and rows a day are exact."""
    world = WorldConfig(days=2, rows_per_day=3_000_000, users=1000, items=100)
    grid = WorldGrid.of(world, PartitionClock(DAY_MS))
    assert sum(grid.rows_of(cell) for cell in grid.cells(grid.start, grid.start + DAY_MS)) == 3_000_000
    cells = range(30, 31)
    sizes = [len(rows.user) for _, rows in world_rows(grid, cells)]
    assert max(sizes) <= CHUNK_ROWS
    assert sum(sizes) == grid.rows_of(30)


def test_the_same_world_at_any_grain_of_whole_hours():
    world = WorldConfig(**SMALL)
    rows = {}
    for grain in (HOUR_MS, 6 * HOUR_MS, DAY_MS):
        grid = WorldGrid.of(world, PartitionClock(grain))
        rows[grain] = np.concatenate([r.event_ts for _, r in world_rows(grid, grid.cells(grid.start, grid.end))])
    assert np.array_equal(rows[HOUR_MS], rows[DAY_MS])
    assert np.array_equal(rows[HOUR_MS], rows[6 * HOUR_MS])
    assert len(rows[DAY_MS]) == 4 * 3000


def test_slow_state_carries_at_least_three_quarters_of_what_is_planted():
    for effects in VERTICALS.values():
        assert effects.slow_variance / (effects.slow_variance + effects.fast_variance) >= 0.75


def test_hidden_states_keep_unit_variance_and_the_declared_persistence():
    world = WorldConfig(days=50, users=4000, items=10, drift=0.1)
    states = HiddenStates(world)
    first = states.at(5)._states["user"].copy()
    later = states.at(15)._states["user"]
    assert later.std() == pytest.approx(1, abs=0.04)
    assert np.corrcoef(first, later)[0, 1] == pytest.approx(0.9**5, abs=0.04)
    assert persistence(world, np.array([10]))[0] == pytest.approx(0.9**5)
    assert np.array_equal(HiddenStates(world).at(15)._states["user"], later)
    assert np.array_equal(states.at(5)._states["user"], first)


def test_quadrature_is_the_monte_carlo_mean():
    random = np.random.default_rng(0)
    for mean, variance in ((-2.0, 0.8), (0.5, 1.5), (-4.0, 0.1)):
        samples = sigmoid(mean + np.sqrt(variance) * random.standard_normal(400_000))
        error = 5 * samples.std() / np.sqrt(len(samples))
        assert expected_probability(np.array([mean]), variance)[0] == pytest.approx(samples.mean(), abs=error)
    assert expected_probability(np.array([0.3]), 0.0)[0] == pytest.approx(sigmoid(np.array([0.3]))[0])


def test_p_state_and_p_vm_are_what_a_simulation_of_the_world_gives():
    """Redraw what is unknown, step by step as the world does, and average the true chance of given rows."""
    dataset = demo(drift=0.3)
    grid = WorldGrid.of(dataset.source.world, dataset.clock)
    part = "2026-01-03"
    truth = world_truth(dataset, [part]).to_pydict()
    noon = dataset.clock.start(part) + 12 * HOUR_MS
    _, rows = next(world_rows(grid, grid.cells(noon, noon + HOUR_MS)))
    seen = HiddenStates(grid.world).at(1)
    random, keep = np.random.default_rng(1), np.sqrt(1 - 0.3)
    for i in np.flatnonzero(rows.bad < 0)[:6]:
        effects = VERTICALS["shop" if rows.shop[i] else "feed"]
        fixed = effects.fixed(rows.hour[[i]], rows.segment[[i]], rows.category[[i]], rows.device[[i]])[0]
        old = [s[0] for s in seen.slow(rows.user[[i]], rows.category[[i]], rows.item[[i]])]
        unknown = random.standard_normal((4, 300_000))
        weights = (effects.user, effects.interest, effects.item)
        moved = [keep * o + np.sqrt(1 - keep**2) * e for o, e in zip(old, unknown, strict=False)]
        fast = effects.context * unknown[3]
        p_state = sigmoid(fixed + sum(w * s for w, s in zip(weights, moved, strict=True)) + fast)
        p_vm = sigmoid(fixed + sum(w * s for w, s in zip(weights, unknown, strict=False)) + fast)
        at = truth["event_ts"].index(int(rows.event_ts[i]))
        assert truth["p_true"][at] == pytest.approx(sigmoid(rows.logit[[i]])[0])
        for name, samples in (("p_state", p_state), ("p_vm", p_vm)):
            error = 5 * samples.std() / np.sqrt(len(samples))
            assert truth[name][at] == pytest.approx(samples.mean(), abs=error)


def test_before_anything_is_visible_the_state_says_nothing():
    truth = world_truth(demo(), ["2026-01-01"])
    assert truth["p_state"].to_pylist() == pytest.approx(truth["p_vm"].to_pylist())


def test_fresher_partitions_know_more():
    """Hourly partitions with a short lag see today's state; daily ones yesterday's."""
    label, chances = {}, {}
    for grain, lag in (("1h", "5m"), ("1d", "1h")):
        dataset = demo(grain=grain, lag=lag, drift=0.4, rows_per_day=20_000)
        parts = dataset.clock.between(*dataset.clock.span("2026-01-03", "2026-01-04"))
        truth = world_truth(dataset, parts).to_pydict()
        label[grain] = np.random.default_rng(0).random(len(truth["p_true"])) < truth["p_true"]
        chances[grain] = np.array(truth["p_state"])
    assert normalized_entropy(label["1h"], chances["1h"]) < normalized_entropy(label["1d"], chances["1d"]) - 0.01


def test_the_default_world_leaves_what_the_method_needs():
    """Base rate 10-20 %, and true < state < VM with a gap of at least .03 NE that a history can close."""
    dataset = load_config("conf/world.yaml").dataset
    truth = world_truth(dataset, dataset.clock.between("2026-01-04", "2026-01-06")).to_pydict()
    vertical, p_true = np.array(truth["vertical"]), np.array(truth["p_true"])
    label = np.random.default_rng(0).random(len(p_true)) < p_true
    for name in VERTICALS:
        of = vertical == name
        assert 0.10 <= label[of].mean() <= 0.20
        true, state, vm = (normalized_entropy(label[of], np.array(truth[c])[of]) for c in ("p_true", "p_state", "p_vm"))
        assert true < state < vm < 1
        assert vm - state >= 0.05


def test_without_effects_there_is_nothing_to_know():
    truth = world_truth(demo(effects=0.0), ["2026-01-02"])
    for column in ("p_state", "p_vm"):
        assert truth[column].to_pylist() == pytest.approx(truth["p_true"].to_pylist())


def test_only_a_generated_world_knows_its_truth():
    with pytest.raises(ContractError, match=r"tiny: source\.world is absent"):
        world_truth(make_dataset(), ["2026-01-01"])
