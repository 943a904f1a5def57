"""Typed parameters: values to numbers in [0, 1] and back, random values, neighbours, and categorical decisions.

Shape legend: W encoded width of a parameter, F decisions that make one of its values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from search.errors import ConfigurationError, SpaceError

Value = Any
"""A plain JSON value: text, number, truth value, or the lists of a graph."""
Floats = npt.NDArray[np.float64]

LEVELS = 8
"""Values of a number that a categorical policy chooses among."""
STEP = 0.2
"""Standard deviation of a number's mutation, as a share of its range."""


class Parameter(ABC):
    """One named dimension of a space.

    ``width`` is W. ``factors`` holds the number of choices of each of the F independent categorical decisions that
    ``assemble`` turns into a value, for methods that learn a factorised policy.
    """

    name: str

    @property
    @abstractmethod
    def width(self) -> int:
        """W."""

    @property
    @abstractmethod
    def factors(self) -> tuple[int, ...]:
        """Choices of each decision, F of them."""

    @abstractmethod
    def check(self, value: Value) -> None:
        """Raise ConfigurationError, naming the parameter and what it allows, unless ``value`` is one of its values."""

    @abstractmethod
    def encode(self, value: Value) -> Floats:
        """Value -> [W], each in [0, 1]."""

    @abstractmethod
    def decode(self, vector: Floats) -> Value:
        """[W], any real numbers -> the nearest value; the inverse of ``encode`` on its image."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Value:
        """A random value."""

    @abstractmethod
    def mutate(self, value: Value, rng: np.random.Generator) -> Value:
        """Another value, near ``value``."""

    @abstractmethod
    def assemble(self, choices: Sequence[int]) -> Value:
        """Decisions [F], choice i in [0, factors[i]) -> a value."""

    def rejected(self, value: Value, allowed: str) -> ConfigurationError:
        """The error of a value that does not fit."""
        return ConfigurationError(f"{self.name}: got {value!r}; allowed: {allowed}")


@dataclass(frozen=True)
class Categorical(Parameter):
    """One of several choices without order; encoded one-hot."""

    name: str
    choices: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.choices or len(set(self.choices)) < len(self.choices):
            raise SpaceError(f"{self.name}: got choices {self.choices}; allowed: at least one, each once")

    @property
    def width(self) -> int:
        """One value a choice."""
        return len(self.choices)

    @property
    def factors(self) -> tuple[int, ...]:
        """One decision."""
        return (len(self.choices),)

    def check(self, value: Value) -> None:
        """``value`` is one of the choices, type included (1 is not True)."""
        if not any(type(value) is type(choice) and value == choice for choice in self.choices):
            raise self.rejected(value, f"one of {list(self.choices)}")

    def encode(self, value: Value) -> Floats:
        """One-hot [W]."""
        self.check(value)
        return np.eye(self.width)[self.choices.index(value)]

    def decode(self, vector: Floats) -> Value:
        """The choice of the largest entry."""
        return self.choices[int(np.argmax(vector))]

    def sample(self, rng: np.random.Generator) -> Value:
        """Each choice equally often."""
        return self.choices[int(rng.integers(self.width))]

    def mutate(self, value: Value, rng: np.random.Generator) -> Value:
        """One of the other choices."""
        others = [choice for choice in self.choices if choice != value]
        return others[int(rng.integers(len(others)))] if others else value

    def assemble(self, choices: Sequence[int]) -> Value:
        """[1] -> the choice."""
        return self.choices[choices[0]]


@dataclass(frozen=True)
class Number(Parameter):
    """Base of numeric parameters: ``low`` .. ``high``, both included; encoded as its place between them."""

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise SpaceError(f"{self.name}: got low {self.low}, high {self.high}; allowed: finite, low <= high")

    @abstractmethod
    def to_unit(self, value: float) -> float:
        """Value -> place in [0, 1]."""

    @abstractmethod
    def from_unit(self, place: float) -> float:
        """Place in [0, 1] -> value."""

    @property
    def width(self) -> int:
        """One value."""
        return 1

    @property
    def factors(self) -> tuple[int, ...]:
        """One decision among evenly spaced values."""
        return (LEVELS,) if self.low < self.high else (1,)

    def check(self, value: Value) -> None:
        """``value`` is a finite number within the range."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not self.low <= value <= self.high:
            raise self.rejected(value, f"a number from {self.low} to {self.high}")

    def encode(self, value: Value) -> Floats:
        """[1]."""
        self.check(value)
        return np.array([self.to_unit(value)])

    def decode(self, vector: Floats) -> Value:
        """Clipped to the range."""
        return self.from_unit(min(max(float(vector[0]), 0.0), 1.0))

    def sample(self, rng: np.random.Generator) -> Value:
        """Uniform in the encoding."""
        return self.from_unit(rng.random())

    def mutate(self, value: Value, rng: np.random.Generator) -> Value:
        """A normal step in the encoding, clipped."""
        return self.decode(self.encode(value) + STEP * rng.standard_normal(1))

    def assemble(self, choices: Sequence[int]) -> Value:
        """[1] -> evenly spaced values, the ends included."""
        levels = self.factors[0]
        return self.from_unit(choices[0] / (levels - 1) if levels > 1 else 0.0)


@dataclass(frozen=True)
class Float(Number):
    """A real number on a linear scale."""

    def to_unit(self, value: float) -> float:
        """Linear."""
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0

    def from_unit(self, place: float) -> float:
        """Linear, within the range whatever the rounding."""
        return min(max(self.low + place * (self.high - self.low), self.low), self.high)


@dataclass(frozen=True)
class LogFloat(Number):
    """A positive number on a logarithmic scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise SpaceError(f"{self.name}: got low {self.low}; allowed on a logarithmic scale: above 0")

    def to_unit(self, value: float) -> float:
        """Logarithmic."""
        return math.log(value / self.low) / math.log(self.high / self.low) if self.high > self.low else 0.0

    def from_unit(self, place: float) -> float:
        """Logarithmic, within the range whatever the rounding."""
        return min(max(self.low * math.exp(place * math.log(self.high / self.low)), self.low), self.high)


@dataclass(frozen=True)
class Integer(Number):
    """A whole number on a linear scale."""

    low: int
    high: int

    @property
    def factors(self) -> tuple[int, ...]:
        """Every value where they are few."""
        return (min(self.high - self.low + 1, LEVELS),)

    def check(self, value: Value) -> None:
        """``value`` is a whole number within the range."""
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise self.rejected(value, f"a whole number from {self.low} to {self.high}")

    def to_unit(self, value: float) -> float:
        """Linear."""
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0

    def from_unit(self, place: float) -> int:
        """The nearest whole number."""
        return round(self.low + place * (self.high - self.low))

    def sample(self, rng: np.random.Generator) -> Value:
        """Each value equally often."""
        return int(rng.integers(self.low, self.high + 1))

    def mutate(self, value: Value, rng: np.random.Generator) -> Value:
        """A normal step, at least one."""
        moved = self.decode(self.encode(value) + STEP * rng.standard_normal(1))
        if moved != value or self.low == self.high:
            return moved
        return value + 1 if value == self.low or (value < self.high and rng.random() < 0.5) else value - 1
