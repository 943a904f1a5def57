"""Predictor-guided search on public tables: best architecture of 100 evaluations beside peers, and rank correlation.

On NAS-Bench-201 CIFAR-100 the whole budget is spent by the sampler, by ranking the whole table, and by the peers. On
three tables the rank-loss ensemble is compared with one MLP of the same size that learns by squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import torch
from pydantic import Field
from scipy.stats import kendalltau

from benchmarks.harness import Report, at_least
from benchmarks.peers.search_peers import AxSearch, TpeSearch
from benchmarks.search_state import NOT_RUN, Key, Record, Runs, mean_of, resumable
from benchmarks.search_tables import TABLES, Table
from feature_store.config import Strict
from search.driver import Search
from search.evolution import RegularizedEvolution
from search.predictor.ensemble import EnsembleSettings, RankEnsemble
from search.predictor.proposer import PredictorSearch, PredictorSettings
from search.proposer import Proposer
from search.random_search import RandomSearch
from search.space import Config
from search.trial import Trial, best, value

SEARCHED = "nb201_cifar100"
TAU = "tau"
SEEDS, REPEATS = 10, 5
VERSION = 1
"""Of the code that runs depend on."""


class PredictorBenchmark(Strict):
    """Settings."""

    evaluations: int = Field(ge=1)
    seeds: int = Field(ge=1)
    ax_seeds: int = Field(ge=0)
    labels: int = Field(ge=2)
    repeats: int = Field(ge=1)
    predictor: PredictorSettings
    single: EnsembleSettings


SETTINGS = PredictorBenchmark


class RankedTable(PredictorSearch):
    """The same rounds with the predictors' order of the whole table in place of the policy."""

    def __init__(self, table: Table, seed: int, settings: PredictorSettings) -> None:
        super().__init__(table.space, seed, settings)
        self.table = table

    def search_round(self, known: Sequence[Trial], rng: np.random.Generator) -> list[Config]:
        """The best of the table."""
        scores = self.fit(known, rng).predict(self.table.x)[:, 0]
        return [self.table.configs[int(row)] for row in np.argsort(scores)]


def body(settings: PredictorBenchmark, report: Report, runs: Runs) -> None:
    """Seed by seed, so that a run that is cut off holds as many seeds of every method; Ax, the slowest, last."""
    torch.set_num_threads(1)
    load = cache(lambda name: TABLES[name]())
    methods = {"predictor": settings.seeds, "ranked": settings.seeds, "evolution": settings.seeds}
    methods |= {"random": settings.seeds, "tpe": settings.seeds, "ax": settings.ax_seeds}
    taus = [Key(f"{TAU}_{t}", m, s) for t in TABLES for s in range(settings.repeats) for m in ("ensemble", "single")]
    searches = [Key(SEARCHED, method, seed) for method, seeds in methods.items() for seed in range(seeds)]
    keys = sorted([*searches, *taus], key=lambda key: (key.method == "ax", key.seed))
    runs.complete(keys, partial(one_run, settings, load), report)
    _search_figures(runs, methods, report)
    _tau_figures(settings, runs, report)


def one_run(settings: PredictorBenchmark, load: Callable[[str], Table], key: Key) -> Record:
    """The result of one run."""
    if key.function.startswith(TAU):
        return {"tau": _tau(settings, load(key.function.removeprefix(f"{TAU}_")), key)}
    table = load(key.function)
    make: dict[str, Callable[[], Proposer]] = {
        "predictor": lambda: PredictorSearch(table.space, key.seed, settings.predictor),
        "ranked": lambda: RankedTable(table, key.seed, settings.predictor),
        "evolution": lambda: RegularizedEvolution(table.space, key.seed),
        "random": lambda: RandomSearch(table.space, key.seed),
        "tpe": lambda: TpeSearch(table.space, key.seed),
        "ax": lambda: AxSearch(table.space, key.seed),
    }
    found = best(Search(make[key.method](), table.objective(), budget=settings.evaluations).run())
    return {"accuracy": 100 - value(found) if found else 0.0}


def _tau(settings: PredictorBenchmark, table: Table, key: Key) -> float:
    """Kendall tau of predicted and true order on every graph that was not learned."""
    order = np.random.default_rng(key.seed).permutation(len(table.configs))
    learned, held_out = order[: settings.labels], order[settings.labels :]
    targets = np.stack([table.ne, table.flops], axis=1)[learned]
    chosen = settings.predictor.ensemble if key.method == "ensemble" else settings.single
    ensemble = RankEnsemble(table.x[learned], targets, key.seed, chosen)
    return float(kendalltau(ensemble.predict(table.x[held_out])[:, 0], table.ne[held_out]).statistic)


def _search_figures(runs: Runs, methods: dict[str, int], report: Report) -> None:
    targets = {"predictor": at_least(73.20), "ranked": at_least(73.40)}
    for method in methods:
        seeds = runs.seeds(SEARCHED, [method])
        found = np.array([runs.get(SEARCHED, method, seed)["accuracy"] for seed in seeds])
        report.add(f"{SEARCHED}_{method}_seeds", len(seeds), at_least(SEEDS) if method in targets else None)
        report.add(f"{SEARCHED}_{method}_mean", mean_of(found.tolist()), targets.get(method))
        report.add(f"{SEARCHED}_{method}_sd", float(found.std()) if seeds else NOT_RUN)


def _tau_figures(settings: PredictorBenchmark, runs: Runs, report: Report) -> None:
    for table in TABLES:
        function = f"{TAU}_{table}"
        seeds = runs.seeds(function, ["ensemble", "single"])
        taus = {m: mean_of([runs.get(function, m, seed)["tau"] for seed in seeds]) for m in ("ensemble", "single")}
        report.add(f"{function}_repeats", len(seeds), at_least(REPEATS))
        report.add(f"{function}_single_mse", taus["single"])
        report.add(f"{function}_ensemble", taus["ensemble"])
        report.add(f"{function}_gain", taus["ensemble"] - taus["single"], at_least(0.03))


if __name__ == "__main__":
    raise SystemExit(
        resumable(
            "search_predictor",
            SETTINGS,
            body,
            lambda s: s.model_dump(exclude={"seeds", "ax_seeds", "repeats"}),
            VERSION,
        )
    )
