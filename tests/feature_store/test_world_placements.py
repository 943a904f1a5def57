"""Placements of the generated world: what they add, and that the world without them stays as it is."""

from __future__ import annotations

import numpy as np

from feature_store.clocks import DAY_MS, PartitionClock
from feature_store.config import WorldConfig
from feature_store.world.effects import VERTICALS, expected_probability
from feature_store.world.rows import WorldGrid, WorldRows, world_rows
from feature_store.world.source import FILE_COLUMN, WORLD_COLUMNS, world_frame, world_span
from feature_store.world.truth import world_truth
from tests.feature_store.test_world import SMALL, demo


def test_placements_leave_the_rest_of_a_world_as_it_is():
    """Each has one quality, on every day and surface; only chances and labels differ from the world without."""
    grids = [WorldGrid.of(WorldConfig(**SMALL, placements=count), PartitionClock(DAY_MS)) for count in (0, 40)]
    without, placed = ([rows for _, rows in world_rows(grid, grid.cells(grid.start, grid.end))] for grid in grids)
    quality: dict[int, float] = {}
    for one, other in zip(without, placed, strict=True):
        for name, values in vars(one).items():
            if name not in ("placement", "quality", "logit", "label"):
                np.testing.assert_array_equal(values, getattr(other, name))
        assert not one.quality.any()
        for place, value in zip(other.placement.tolist(), other.quality.tolist(), strict=True):
            assert quality.setdefault(place, value) == value
        weight = np.where(other.shop, VERTICALS["shop"].placement, VERTICALS["feed"].placement)
        np.testing.assert_allclose(other.logit - one.logit, weight * other.quality, atol=1e-9)
    assert len(quality) == 40


def test_placements_are_columns_of_worlds_that_have_them(spark):
    clock = PartitionClock(DAY_MS)
    for placements, added in ((0, []), (40, ["placement", "placement_quality"])):
        world = WorldConfig(**SMALL, placements=placements)
        rows = world_frame(spark, world, clock, *world_span(world, clock))
        assert rows.columns == [*WORLD_COLUMNS, *added, FILE_COLUMN]
    assert rows.select("placement").distinct().count() == 40


def test_what_can_be_known_of_a_row_includes_its_placement():
    """On the first day, when no state is visible yet: E[p] over all states, given the request and the quality."""
    dataset = demo(placements=50, bad_share=0.0)
    grid, day = WorldGrid.of(dataset.source.world, dataset.clock), dataset.clock.start("2026-01-01")
    truth = world_truth(dataset, ["2026-01-01"])
    rows = [rows for _, rows in world_rows(grid, grid.cells(day, day + DAY_MS))]
    expected = np.concatenate([expected_of(one) for one in rows])
    for column in ("p_vm", "p_state"):
        np.testing.assert_allclose(truth[column].to_numpy(), expected)


def expected_of(rows: WorldRows) -> np.ndarray:
    found = np.empty(len(rows.user))
    for shop, effects in enumerate(VERTICALS.values()):
        fixed = effects.fixed(rows.hour, rows.segment, rows.category, rows.device) + effects.placement * rows.quality
        variance = effects.slow_variance + effects.fast_variance
        found = np.where(rows.shop == bool(shop), expected_probability(fixed, variance), found)
    return found
