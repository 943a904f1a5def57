"""What the generated world knows about its own rows: the true chance, and what a batch could know of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from feature_store.clocks import DAY_MS
from feature_store.config import DatasetConfig
from feature_store.errors import ContractError
from feature_store.world.effects import VERTICALS, Floats, Ints, VerticalEffects, expected_probability, sigmoid
from feature_store.world.rows import BAD_KINDS, WorldGrid, WorldRows, world_rows
from feature_store.world.states import HiddenStates, persistence

TRUTH = pa.schema(
    [
        ("part", pa.string()),
        ("user", pa.int64()),
        ("item", pa.int64()),
        ("event_ts", pa.int64()),
        ("vertical", pa.string()),
        ("p_true", pa.float64()),
        ("p_state", pa.float64()),
        ("p_vm", pa.float64()),
    ]
)

OF_LABEL = {"click": "feed", "purchase": "shop"}
"""Label column of the world -> the vertical of its truth."""

_KEY_COLUMNS = {"user": "user_id", "item": "item_id"}
_VM_COLUMNS = {"hour", "segment", "category", "device"}
_PLACEMENT = {"placement"}


def world_vertical(dataset: DatasetConfig, vertical: str) -> str | None:
    """The ``vertical`` of ``world_truth`` whose rows a vertical's labelled rows are, whatever its name.

    None where its label is no label column of the world as it stands, or user, item and time are not the world's own.
    """
    keys = {name: dataset.entities[name] for name in _KEY_COLUMNS}
    if keys != _KEY_COLUMNS or dataset.event_ts.value != "event_ms":
        return None
    return OF_LABEL.get(dataset.labels[dataset.verticals[vertical].label].value)


def vm_reads_the_worlds_features(dataset: DatasetConfig, vertical: str) -> bool:
    """Whether a vertical's VM sees what p_vm and p_state are given: hour, segment, category, device, placement."""
    world = dataset.source.world
    given = _VM_COLUMNS | (_PLACEMENT if world is not None and world.placements else set())
    columns = {dataset.features[n].value if n in dataset.features else n for n in dataset.verticals[vertical].features}
    return columns - {"surface"} == given


def world_truth(dataset: DatasetConfig, parts: list[str]) -> pa.Table:
    """True chances of the world's valid rows of ``parts``.

    Returns:
        part, user, item, event_ts, vertical and, per row, p_true; p_state = E[p | VM features, hidden state in the
        newest partition that is visible at event_ts]; p_vm = E[p | VM features]. A VM sees hour, segment, category,
        device, surface and, where the world has them, placement; the fast context is integrated out of both
        expectations, and before the world's first visible partition p_state is p_vm.

    Raises:
        ContractError: the data set's source is no generated world.
    """
    if dataset.source.world is None:
        raise ContractError(f"{dataset.name}: source.world is absent; only a generated world knows its true chances")
    clock = dataset.clock
    grid = WorldGrid.of(dataset.source.world, clock)
    seen = HiddenStates(grid.world)
    batches = []
    for part in parts:
        for _, rows in world_rows(grid, grid.cells(clock.start(part), clock.end(part))):
            batches.append(_truth(dataset, grid, rows, part, seen))
    return pa.Table.from_batches(batches, schema=TRUTH)


def _truth(dataset: DatasetConfig, grid: WorldGrid, rows: WorldRows, part: str, seen: HiddenStates) -> pa.RecordBatch:
    as_of = dataset.history_clock.horizon(rows.event_ts)
    p_state, p_vm = np.empty(len(as_of)), np.empty(len(as_of))
    for shop, effects in enumerate(VERTICALS.values()):
        of = rows.shop == bool(shop)
        fixed = effects.fixed(rows.hour[of], rows.segment[of], rows.category[of], rows.device[of])
        fixed += grid.world.effects * effects.placement * rows.quality[of]
        p_vm[of] = _stationary(grid, effects, fixed)
        p_state[of] = _given_state(grid, effects, fixed, rows, of, as_of[of], seen)
    valid = (rows.bad < 0) | (rows.bad == BAD_KINDS.index("duplicate"))
    names = np.array(list(VERTICALS))
    table = pa.record_batch(
        {
            "part": pa.array([part] * len(as_of), pa.string()),
            "user": rows.user + 1,
            "item": rows.item + 1,
            "event_ts": rows.event_ts,
            "vertical": names[rows.shop.astype(int)],
            "p_true": sigmoid(rows.logit),
            "p_state": p_state,
            "p_vm": p_vm,
        },
        schema=TRUTH,
    )
    return table.filter(pa.array(valid))


def _stationary(grid: WorldGrid, effects: VerticalEffects, fixed: Floats) -> Floats:
    variance = grid.world.effects**2 * (effects.slow_variance + effects.fast_variance)
    return expected_probability(fixed, variance)


def _given_state(
    grid: WorldGrid,
    effects: VerticalEffects,
    fixed: Floats,
    rows: WorldRows,
    of: np.ndarray,
    as_of: Ints,
    seen: HiddenStates,
) -> Floats:
    """E[p | fixed, states at the last instant before as_of]: mean decays, variance grows, with the days between."""
    world, result = grid.world, np.empty(len(fixed))
    seen_day = (as_of - 1 - grid.start) // DAY_MS
    today = (rows.event_ts[of] - grid.start) // DAY_MS
    user, category, item = rows.user[of], rows.category[of], rows.item[of]
    for day in np.unique(seen_day):
        at = seen_day == day
        if day < 0:
            result[at] = _stationary(grid, effects, fixed[at])
            continue
        keep = persistence(world, today[at] - day)
        u, v, i = seen.at(int(day)).slow(user[at], category[at], item[at])
        slow = effects.user * u + effects.interest * v + effects.item * i
        variance = effects.slow_variance * (1 - keep**2) + effects.fast_variance
        result[at] = expected_probability(fixed[at] + world.effects * keep * slow, world.effects**2 * variance)
    return result
