"""ENAS cells as graphs: six layers, each of one of six operations, each reading the layer before it and any earlier.

The rows are those of Zhang et al. (arXiv 1904.11088, section 5.1): a layer is ``[operation, read_0 .. read_{i-1}]``,
where read_j tells whether layer i also reads vertex j, vertex 0 being the cell's input.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.dvae.dags import END, FIRST_KIND, START, TypedDag
from search.errors import SpaceError
from search.parameters import Categorical, Value
from search.space import SearchSpace

LAYERS = 6
OPERATIONS = 6
VERTICES = LAYERS + 2
TYPES = OPERATIONS + FIRST_KIND
BURN_IN = 1_000
"""First rows of the file, from before the controller of ENAS had learned: left out, as in the paper's code."""
TEST_SHARE = 0.1

Row = Sequence[Sequence[int]]


@dataclass(frozen=True)
class EnasSplit:
    """Graphs and their validation accuracies under ENAS's shared weights."""

    train: list[TypedDag]
    train_accuracy: list[float]
    test: list[TypedDag]
    test_accuracy: list[float]


def read_enas(path: Path) -> EnasSplit:
    """The 90/10 split of the file, shuffled with seed 0.

    Raises:
        SpaceError: the file is missing or a line of it is no cell; the message names the line.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise SpaceError(f"{path}: no file of ENAS cells there ({error})") from error
    cells = [_parse(path, number, line) for number, line in enumerate(lines, start=1)][BURN_IN:]
    random.Random(0).shuffle(cells)
    cut = int(len(cells) * (1 - TEST_SHARE))
    dags, accuracies = [cell[0] for cell in cells], [cell[1] for cell in cells]
    return EnasSplit(dags[:cut], accuracies[:cut], dags[cut:], accuracies[cut:])


def cell_dag(row: Row) -> TypedDag:
    """START, the layers, END; layer i is vertex i + 1 and always reads vertex i.

    Raises:
        SpaceError: a layer has another number of reads than layers before it, or an unknown operation.
    """
    edges = [(i, i + 1) for i in range(len(row) + 1)]
    for i, (operation, *reads) in enumerate(row):
        if len(reads) != i or not 0 <= operation < OPERATIONS:
            raise SpaceError(f"layer {i} is {list(row[i])}; allowed: an operation below {OPERATIONS}, then {i} reads")
        edges += [(j, i + 1) for j, read in enumerate(reads) if read]
    return TypedDag((START, *(layer[0] + FIRST_KIND for layer in row), END), tuple(edges))


class EnasCells:
    """Codec between graphs and configurations of ``enas_space``."""

    def __init__(self) -> None:
        self.types, self.max_vertices = TYPES, VERTICES
        self.names: tuple[str, ...] = tuple(parameter.name for parameter in enas_space().parameters)

    def canonical(self, dag: TypedDag) -> TypedDag:
        """Itself: the chain leaves one topological order."""
        return dag

    def to_dag(self, config: Mapping[str, Value]) -> TypedDag:
        """Configuration -> graph."""
        reads = [[int(config[f"read_{i}_{j}"]) for j in range(i)] for i in range(LAYERS)]
        return cell_dag([[config[f"operation_{i}"], *reads[i]] for i in range(LAYERS)])

    def to_values(self, dag: TypedDag) -> dict[str, Value] | None:
        """None unless it is START, six operations and END in one chain, and END reads the last layer alone."""
        edges = set(dag.edges)
        if len(dag) != VERTICES or not dag.bounded or dag.parents[-1] != [LAYERS]:
            return None
        if not edges >= {(i, i + 1) for i in range(LAYERS)}:
            return None
        config: dict[str, Value] = {}
        for i in range(LAYERS):
            config[f"operation_{i}"] = dag.types[i + 1] - FIRST_KIND
            config |= {f"read_{i}_{j}": (j, i + 1) in edges for j in range(i)}
        return config


def enas_space() -> SearchSpace:
    """All cells: 6 operations and 15 reads, 6^6 * 2^15 configurations."""
    parameters: list[Categorical] = []
    for i in range(LAYERS):
        parameters.append(Categorical(f"operation_{i}", tuple(range(OPERATIONS))))
        parameters += [Categorical(f"read_{i}_{j}", (False, True)) for j in range(i)]
    return SearchSpace(parameters)


def _parse(path: Path, number: int, line: str) -> tuple[TypedDag, float]:
    try:
        row, accuracy = ast.literal_eval(line)
        return cell_dag(row), float(accuracy)
    except (SyntaxError, ValueError, TypeError, SpaceError) as error:
        raise SpaceError(f"{path}, line {number}: not a cell and its accuracy: {error}") from error
