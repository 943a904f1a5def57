"""Hidden states of the generated world: stationary AR(1) processes that move once a day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feature_store.config import WorldConfig
from feature_store.world.effects import CATEGORIES, SEGMENTS, Floats, Ints

_STREAMS = {"static": 1, "user": 2, "interest": 3, "item": 4, "rows": 5, "quality": 6, "placements": 7}


def stream(seed: int, name: str, counter: int) -> np.random.Generator:
    """Random numbers that depend on (seed, name, counter) alone, so that any piece can be made by itself."""
    return np.random.Generator(np.random.Philox(key=[seed, (_STREAMS[name] << 56) | counter]))


@dataclass(frozen=True)
class Attributes:
    """What never changes: segment [users], category [items], quality [placements]."""

    segment: Ints
    category: Ints
    quality: Floats

    @classmethod
    def of(cls, world: WorldConfig) -> Attributes:
        """Draw the attributes of a world."""
        random = stream(world.seed, "static", 0)
        segment, category = random.integers(SEGMENTS, size=world.users), random.integers(CATEGORIES, size=world.items)
        return cls(segment, category, stream(world.seed, "quality", 0).standard_normal(world.placements))


def persistence(world: WorldConfig, days: Ints) -> Floats:
    """Correlation of a state with itself ``days`` later: drift is the share of its variance renewed in a day."""
    return np.power(1.0 - world.drift, days / 2.0)


class HiddenStates:
    """States of one day: user [users], interest [users, categories], item [items], each N(0, 1) and independent.

    Moving forward costs one step a day; moving back starts again from day 0.
    """

    def __init__(self, world: WorldConfig) -> None:
        self.world = world
        self.day = -1
        self._shapes = {"user": (world.users,), "interest": (world.users, CATEGORIES), "item": (world.items,)}
        self._states: dict[str, Floats] = {}

    def at(self, day: int) -> HiddenStates:
        """Move to ``day`` (0 is the first)."""
        if day < self.day:
            self.day = -1
        while self.day < day:
            self._step()
        return self

    def _step(self) -> None:
        self.day += 1
        keep = float(persistence(self.world, np.ones(1, np.int64))[0]) if self.day else 0.0
        for name, shape in self._shapes.items():
            fresh = stream(self.world.seed, name, self.day).standard_normal(shape)
            old = self._states[name] if self.day else 0.0
            self._states[name] = keep * old + np.sqrt(1.0 - keep**2) * fresh

    def slow(self, user: Ints, category: Ints, item: Ints) -> tuple[Floats, Floats, Floats]:
        """(U, V, I) of rows, each [N]."""
        states = self._states
        return states["user"][user], states["interest"][user, category], states["item"][item]
