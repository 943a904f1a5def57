"""Rows of the generated world, made cell by cell: a cell depends on nothing but its own counter and the states."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_store.clocks import DAY_MS, HOUR_MS, PartitionClock
from feature_store.config import WorldConfig
from feature_store.world.effects import DEVICES, VERTICALS, Floats, Ints, sigmoid
from feature_store.world.states import Attributes, HiddenStates, stream

CHUNK_ROWS = 50_000
SHOP_SHARE = 0.4
MAX_LATE_HOURS = 12
BAD_KINDS = ("null user", "null time", "not finite", "label", "early arrival", "duplicate")
_DAILY_SWING = 0.5


@dataclass(frozen=True)
class WorldRows:
    """A chunk of rows, all [N]; ``bad`` is -1 or an index into BAD_KINDS; ``logit`` is the true one.

    ``placement`` and ``quality`` are 0 in a world without placements.
    """

    user: Ints
    item: Ints
    shop: npt.NDArray[np.bool_]
    event_ts: Ints
    arrived_at: Ints
    label_at: Ints
    hour: Ints
    segment: Ints
    category: Ints
    device: Ints
    user_state: Floats
    interest: Floats
    item_state: Floats
    context: Floats
    placement: Ints
    quality: Floats
    logit: Floats
    label: npt.NDArray[np.int8]
    bad: Ints


@dataclass(frozen=True)
class WorldGrid:
    """Where the world lies in time, and its cells: the pieces that are generated as one."""

    world: WorldConfig
    start: int
    cell_ms: int

    @classmethod
    def of(cls, world: WorldConfig, clock: PartitionClock) -> WorldGrid:
        """Cells divide both an hour and a partition; a world starts at a partition's border on or after its day."""
        day = PartitionClock(DAY_MS).start(world.start)
        return cls(world, day + clock.offset_ms, math.gcd(clock.grain_ms, HOUR_MS))

    @property
    def end(self) -> int:
        """First instant after the world."""
        return self.start + self.world.days * DAY_MS

    def day(self, instant: int) -> int:
        """Day of the world that holds an instant."""
        return (instant - self.start) // DAY_MS

    def cells(self, first: int, stop: int) -> range:
        """Cells of the world that lie in [first, stop)."""
        first, stop = max(first, self.start), min(stop, self.end)
        return range((first - self.start) // self.cell_ms, max(0, stop - self.start) // self.cell_ms)

    def rows_of(self, cell: int) -> int:
        """Rows of a cell: days are equal, nights are quieter."""
        return self._rows_until((cell + 1) * self.cell_ms) - self._rows_until(cell * self.cell_ms)

    def _rows_until(self, elapsed_ms: int) -> int:
        day, within = divmod(elapsed_ms, DAY_MS)
        phase = 2 * math.pi * within / DAY_MS
        share = within / DAY_MS - _DAILY_SWING / (2 * math.pi) * math.sin(phase)
        return math.floor(self.world.rows_per_day * (day + share) + 1e-6)


def world_rows(grid: WorldGrid, cells: Iterator[int] | range) -> Iterator[tuple[int, WorldRows]]:
    """(cell, chunk of its rows); ascending cells are the fast order, as states move one day at a time."""
    attributes, states = Attributes.of(grid.world), HiddenStates(grid.world)
    for cell in cells:
        start = grid.start + cell * grid.cell_ms
        states.at(grid.day(start))
        rows = grid.rows_of(cell)
        for chunk, done in enumerate(range(0, rows, CHUNK_ROWS)):
            size, counter = min(CHUNK_ROWS, rows - done), (cell << 16) | chunk
            placed = _placed(grid.world, size, counter, attributes)
            random = stream(grid.world.seed, "rows", counter)
            yield cell, _chunk(grid, start, size, random, attributes, states, placed)


def _placed(world: WorldConfig, n: int, counter: int, fixed: Attributes) -> tuple[Ints, Floats]:
    """Placement and its quality; from a stream of their own, so that all else is as without placements."""
    if not world.placements:
        return np.zeros(n, np.int64), np.zeros(n)
    placement = stream(world.seed, "placements", counter).integers(world.placements, size=n)
    return placement, fixed.quality[placement]


def _chunk(
    grid: WorldGrid,
    start: int,
    n: int,
    random: np.random.Generator,
    fixed: Attributes,
    states: HiddenStates,
    placed: tuple[Ints, Floats],
) -> WorldRows:
    world = grid.world
    event_ts = start + np.sort(random.integers(grid.cell_ms, size=n))
    user, item = random.integers(world.users, size=n), random.integers(world.items, size=n)
    shop = random.random(n) < SHOP_SHARE
    device = random.integers(DEVICES, size=n)
    context = random.standard_normal(n)
    late = random.random(n) < world.late_share
    arrived_at = event_ts + np.where(late, random.integers(HOUR_MS, MAX_LATE_HOURS * HOUR_MS, size=n), 0)
    delay = world.label_delay * (0.5 + 0.5 * random.random(n))
    bad = np.where(random.random(n) < world.bad_share, random.integers(len(BAD_KINDS), size=n), -1)
    segment, category, hour = fixed.segment[user], fixed.category[item], event_ts // HOUR_MS % 24
    slow = states.slow(user, category, item)
    logit = true_logit(world.effects, shop, (hour, segment, category, device), slow, context, placed[1])
    return WorldRows(
        user=user,
        item=item,
        shop=shop,
        event_ts=event_ts,
        arrived_at=arrived_at,
        label_at=event_ts + np.where(shop, delay, 0).astype(np.int64),
        hour=hour,
        segment=segment,
        category=category,
        device=device,
        user_state=slow[0],
        interest=slow[1],
        item_state=slow[2],
        context=context,
        placement=placed[0],
        quality=placed[1],
        logit=logit,
        label=(random.random(n) < sigmoid(logit)).astype(np.int8),
        bad=bad,
    )


def true_logit(
    effects: float,
    shop: npt.NDArray[np.bool_],
    request: tuple[Ints, Ints, Ints, Ints],
    slow: tuple[Floats, Floats, Floats],
    context: Floats,
    quality: Floats,
) -> Floats:
    """The logit of rows of both verticals, [N]."""
    logits = [
        v.fixed(*request)
        + effects * (v.user * slow[0] + v.interest * slow[1] + v.item * slow[2] + v.context * context)
        + effects * v.placement * quality
        for v in (VERTICALS["feed"], VERTICALS["shop"])
    ]
    return np.where(shop, logits[1], logits[0])
