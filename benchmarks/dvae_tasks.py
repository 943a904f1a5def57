"""The three sets of graphs of the D-VAE benchmark, each with its codec, its split and, where there is one, a target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.harness import MissingDataError
from search.dvae.bayes import Network, NetworkCodec
from search.dvae.codec import DagCodec, GraphCodec
from search.dvae.dags import TypedDag
from search.dvae.enas import EnasCells, enas_space, read_enas
from search.graphs import Dag
from search.space import Config, SearchSpace
from search.vm_space import BODIES, BODY, LARGEST, SMALLEST, UNITS

TEST_SHARE = 0.1
PARENTS_LIMIT = 7


@dataclass(frozen=True)
class GraphTask:
    """Graphs of one space. ``train_y`` and ``test_y``: larger is better; empty where graphs have no target."""

    name: str
    space: SearchSpace
    codec: DagCodec
    train: list[TypedDag]
    test: list[TypedDag]
    train_y: npt.NDArray[np.float64]
    test_y: npt.NDArray[np.float64]

    def raw(self, dags: Sequence[TypedDag]) -> npt.NDArray[np.float64]:
        """The space's own encoding of graphs [G, W]."""
        return self.space.encode_all([self.config(dag) for dag in dags])

    def config(self, dag: TypedDag) -> Config:
        """The configuration of a graph of the task."""
        values = self.codec.to_values(dag)
        if values is None:
            raise ValueError(f"{self.name}: {dag} is no graph of its space")
        return values


def enas_task(path: Path) -> GraphTask:
    """Cells and their accuracies under shared weights.

    Raises:
        MissingDataError: the file is not there.
    """
    if not path.is_file():
        raise MissingDataError(f"no ENAS cells at {path}")
    split = read_enas(path)
    y = [np.array(values) for values in (split.train_accuracy, split.test_accuracy)]
    return GraphTask("enas", enas_space(), EnasCells(), split.train, split.test, *y)


def network_task(graphs: int, data: npt.NDArray[np.int64]) -> GraphTask:
    """Random networks over the columns of ``data`` and their BIC, per row of it."""
    parameter = Network("network", data.shape[1])
    codec, score = NetworkCodec(parameter), Bic(data)
    found = _random_graphs(SearchSpace([parameter]), codec, graphs)
    y = np.array([score(values[parameter.name]) for values in map(codec.to_values, found) if values])
    cut = _cut(graphs)
    return GraphTask("networks", SearchSpace([parameter]), codec, found[:cut], found[cut:], y[:cut], y[cut:])


def vm_task(graphs: int) -> GraphTask:
    """Random bodies of VMs."""
    parameter = Dag(BODY, tuple(f"{kind}-{units}" for kind in BODIES for units in UNITS), SMALLEST, LARGEST)
    space, codec = SearchSpace([parameter]), GraphCodec(parameter)
    found, cut = _random_graphs(space, codec, graphs), _cut(graphs)
    return GraphTask("vm", space, codec, found[:cut], found[cut:], np.zeros(0), np.zeros(0))


class Bic:
    """Bayesian information criterion of a network's structure on discrete data [n, V], divided by n."""

    def __init__(self, data: npt.NDArray[np.int64]) -> None:
        self.data, self.states = data, data.max(axis=0) + 1
        self._known: dict[tuple[int, tuple[int, ...]], float] = {}

    def __call__(self, edges: Sequence[Sequence[int]]) -> float:
        """Of the structure with ``edges`` [parent, child]."""
        parents = [tuple(sorted(parent for parent, child in edges if child == v)) for v in range(len(self.states))]
        return sum(self.local(v, read) for v, read in enumerate(parents)) / len(self.data)

    def local(self, child: int, parents: tuple[int, ...]) -> float:
        """Log-likelihood of a variable given its parents, less log(n) / 2 for each free parameter."""
        if (child, parents) not in self._known:
            shape = tuple(int(self.states[v]) for v in (*parents, child))
            counts = np.zeros(shape)
            np.add.at(counts, tuple(self.data[:, v] for v in (*parents, child)), 1.0)
            counts = counts.reshape(-1, shape[-1])
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = counts * np.log(counts / counts.sum(axis=1, keepdims=True))
            free = counts.shape[0] * (counts.shape[1] - 1)
            self._known[child, parents] = float(np.nansum(terms)) - 0.5 * math.log(len(self.data)) * free
        return self._known[child, parents]


def asia(rows: int) -> npt.NDArray[np.int64]:
    """``rows`` simulated patients of the Asia network [rows, 8], columns by name, values 0 and 1.

    Raises:
        MissingDataError: pgmpy is not installed.
    """
    try:
        from pgmpy.utils import get_example_model
    except ImportError as error:
        raise MissingDataError(f"the Asia network needs pgmpy ({error})") from error
    frame = get_example_model("asia").simulate(n_samples=rows, seed=0, show_progress=False)
    return np.stack([(frame[column] == "yes").to_numpy().astype(np.int64) for column in sorted(frame.columns)], axis=1)


def _random_graphs(space: SearchSpace, codec: DagCodec, count: int) -> list[TypedDag]:
    """Different random graphs."""
    rng = np.random.default_rng(0)
    draws = (codec.to_dag(space.sample(rng)) for _ in itertools.count())
    found: dict[TypedDag, None] = {}
    for dag in draws:
        found.setdefault(dag)
        if len(found) == count:
            break
    return list(found)


def _cut(graphs: int) -> int:
    return int(graphs * (1 - TEST_SHARE))


Objective = Callable[[Config], float]
