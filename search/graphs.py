"""Graphs of blocks as a parameter: acyclic by construction, since a block reads the input and earlier blocks only.

Shape legend: V most blocks, T kinds, W encoded width = V * (T + 1) + V * (V + 1) / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.errors import SpaceError
from search.parameters import Floats, Parameter, Value

INPUT = 0
"""What a block reads when it reads the graph's input; i > 0 is the i-th block."""


@dataclass(frozen=True)
class Graph:
    """Blocks in topological order.

    ``kinds[i]`` is the kind of block i + 1; ``inputs[i]`` what it reads, rising: 0 is the graph's input, j is block j
    with j <= i. Blocks that no other reads are the graph's outputs.
    """

    kinds: tuple[str, ...]
    inputs: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Blocks (numbered from 1) that no other block reads."""
        read = {source for sources in self.inputs for source in sources}
        return tuple(block for block in range(1, len(self) + 1) if block not in read)

    def to_value(self) -> dict[str, Any]:
        """Plain lists, as they stand in a configuration."""
        return {"kinds": list(self.kinds), "inputs": [list(sources) for sources in self.inputs]}

    @classmethod
    def from_value(cls, value: Value) -> Graph:
        """The inverse of ``to_value``."""
        return cls(tuple(value["kinds"]), tuple(tuple(sources) for sources in value["inputs"]))


@dataclass(frozen=True)
class Dag(Parameter):
    """A graph of ``smallest`` .. ``largest`` blocks, each of one of ``kinds``, each reading at least one earlier place.

    Encoded as the one-hot kinds of V places (the last entry of each: no block) and the V * (V + 1) / 2 possible reads.
    """

    name: str
    kinds: tuple[str, ...]
    smallest: int
    largest: int

    def __post_init__(self) -> None:
        if not self.kinds or not 1 <= self.smallest <= self.largest:
            raise SpaceError(
                f"{self.name}: got {len(self.kinds)} kinds, {self.smallest} to {self.largest} blocks; "
                "allowed: at least one kind, 1 <= smallest <= largest"
            )

    @property
    def width(self) -> int:
        """W."""
        return self.largest * (len(self.kinds) + 1) + self.largest * (self.largest + 1) // 2

    @property
    def factors(self) -> tuple[int, ...]:
        """The number of blocks, a kind for each place, and yes or no for each possible read."""
        reads = self.largest * (self.largest + 1) // 2
        return (self.largest - self.smallest + 1, *[len(self.kinds)] * self.largest, *[2] * reads)

    def check(self, value: Value) -> None:
        """The value is a graph of this space; the message names the block that is not."""
        if not isinstance(value, dict) or set(value) != {"kinds", "inputs"}:
            raise self.rejected(value, "a mapping with kinds and inputs")
        kinds, inputs = value["kinds"], value["inputs"]
        if len(kinds) != len(inputs) or not self.smallest <= len(kinds) <= self.largest:
            allowed = f"{self.smallest} to {self.largest} of each"
            raise self.rejected(f"{len(kinds)} kinds and {len(inputs)} inputs", allowed)
        for block, (kind, sources) in enumerate(zip(kinds, inputs, strict=True), start=1):
            if kind not in self.kinds:
                raise self.rejected(kind, f"block {block} one of {list(self.kinds)}")
            if not sources or list(sources) != sorted(set(sources)) or not 0 <= sources[0] <= sources[-1] < block:
                raise self.rejected(list(sources), f"inputs of block {block}: some of 0 .. {block - 1}, rising")

    def encode(self, value: Value) -> Floats:
        """[W]."""
        self.check(value)
        graph, none = Graph.from_value(value), len(self.kinds)
        kinds, reads = np.zeros((self.largest, none + 1)), np.zeros((self.largest, self.largest))
        for place in range(self.largest):
            kinds[place, self.kinds.index(graph.kinds[place]) if place < len(graph) else none] = 1.0
        for place, sources in enumerate(graph.inputs):
            reads[place, list(sources)] = 1.0
        return np.concatenate([kinds.ravel(), reads[np.tril_indices(self.largest)]])

    def decode(self, vector: Floats) -> Value:
        """Kinds by the largest entry, reads above one half; a block that would read nothing reads its largest entry."""
        cut = self.largest * (len(self.kinds) + 1)
        kinds = np.asarray(vector[:cut]).reshape(self.largest, -1)
        blank = np.argmax(kinds, axis=1) == len(self.kinds)
        count = min(max(int(np.argmax(blank)) if blank.any() else self.largest, self.smallest), self.largest)
        scores = np.full((self.largest, self.largest), -np.inf)
        scores[np.tril_indices(self.largest)] = vector[cut:]
        inputs = []
        for place in range(count):
            row = scores[place, : place + 1]
            inputs.append([int(i) for i in np.flatnonzero(row > 0.5)] or [int(np.argmax(row))])
        chosen = np.argmax(kinds[:count, :-1], axis=1)
        return {"kinds": [self.kinds[int(kind)] for kind in chosen], "inputs": inputs}

    def sample(self, rng: np.random.Generator) -> Value:
        """Uniform decisions."""
        return self.assemble([int(rng.integers(size)) for size in self.factors])

    def mutate(self, value: Value, rng: np.random.Generator) -> Value:
        """Another kind, one read more or less, or one block more or less at the end."""
        moves = [self._rewire, *([self._rekind] if len(self.kinds) > 1 else [])]
        if self.smallest < self.largest:
            moves.append(self._resize)
        return moves[int(rng.integers(len(moves)))](value, rng)

    def assemble(self, choices: Sequence[int]) -> Value:
        """Decisions -> a graph; a block that would read nothing reads the one before it."""
        count = choices[0] + self.smallest
        kinds = [self.kinds[choice] for choice in choices[1 : count + 1]]
        reads, inputs = choices[1 + self.largest :], []
        for place in range(count):
            row = reads[place * (place + 1) // 2 : (place + 1) * (place + 2) // 2]
            inputs.append([source for source, chosen in enumerate(row) if chosen] or [place])
        return {"kinds": kinds, "inputs": inputs}

    def _rekind(self, value: Value, rng: np.random.Generator) -> Value:
        place = int(rng.integers(len(value["kinds"])))
        others = [kind for kind in self.kinds if kind != value["kinds"][place]]
        kinds = [*value["kinds"]]
        kinds[place] = others[int(rng.integers(len(others)))]
        return {"kinds": kinds, "inputs": value["inputs"]}

    def _rewire(self, value: Value, rng: np.random.Generator) -> Value:
        place = int(rng.integers(len(value["kinds"])))
        source = int(rng.integers(place + 1))
        changed = sorted(set(value["inputs"][place]) ^ {source})
        inputs = [*value["inputs"]]
        inputs[place] = changed or [int(rng.integers(place + 1))]
        return {"kinds": value["kinds"], "inputs": inputs}

    def _resize(self, value: Value, rng: np.random.Generator) -> Value:
        count = len(value["kinds"])
        grow = count == self.smallest or (count < self.largest and rng.random() < 0.5)
        if not grow:
            return {"kinds": value["kinds"][:-1], "inputs": value["inputs"][:-1]}
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        sources = sorted({count, *(i for i in range(count + 1) if rng.random() < 0.5)})
        return {"kinds": [*value["kinds"], kind], "inputs": [*value["inputs"], sources]}
