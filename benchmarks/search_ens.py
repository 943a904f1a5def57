"""Active search on CiteSeer: papers of one venue among 39,788, by looking ahead, alone and in batches.

Protocol of Jiang et al. (ICML 2017; arXiv 1811.08871): the largest component of the citation graph, features from its
20 slowest Laplacian modes, 50 nearest neighbours of weight 1, prior (.05, 1), one random positive known at the start.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, load_npz, random, save_npz

from benchmarks.harness import Report, at_least, at_most
from benchmarks.search_state import NOT_RUN, Key, Record, Runs, mean_of, resumable, search_data
from feature_store.config import Strict
from pipelines.config import home
from search.ens.batch import greedy_batch, greedy_myopic, sequential_simulation
from search.ens.exact import LARGEST, optimal_value, policy_value
from search.ens.graph import laplacian_features, largest_component
from search.ens.knn import KnnModel, knn_weights
from search.ens.lookahead import pick

ENS_OVER_MYOPIC = 1.08
FASTER = 5.0
JUDGED = 300
REPEATS = 20
VERSION = 1
"""Of the code that runs depend on."""
EXACT_QUERIES = (2, 3, 4, 6)
PROOFS = (Key("proof", "exact", 0), Key("proof", "pruning", 0))


class EnsSettings(Strict):
    """``budgets``: queries of the sequential runs; ``timed_at``: observations at which pruning is timed."""

    venue: int
    modes: int
    neighbours: int
    repeats: int
    budgets: list[int]
    batch_sizes: list[int]
    batch_queries: int
    greedy_batch_repeats: int
    samples: int
    timed_at: list[int]
    exact_pools: int


SETTINGS = EnsSettings


def body(settings: EnsSettings, report: Report, runs: Runs) -> None:
    """Proofs on small pools, then pruning, sequential search and batches on CiteSeer."""
    weights, positives = citeseer(settings, report)
    report.add("points", len(positives), at_least(39_788))
    report.add("positives", int(positives.sum()), at_least(2_190))
    model = KnnModel(weights)
    runs.complete(keys(settings), lambda key: search(settings, model, positives, key), report)
    add_proofs(runs, report)
    add_sequential(settings, runs, report)
    for size in settings.batch_sizes:
        add_batch(size, settings, runs, report)


def keys(settings: EnsSettings) -> Iterator[Key]:
    """Proofs, then seed by seed all policies; the costly greedy batches last."""
    yield from PROOFS
    for seed in range(settings.repeats):
        for method in sequential_methods(settings):
            yield Key("citeseer", method, seed)
        for size in settings.batch_sizes:
            for method in ("myopic", "simulated"):
                yield Key(f"batch_{size}", method, seed)
    for seed in range(settings.greedy_batch_repeats):
        for size in settings.batch_sizes:
            yield Key(f"batch_{size}", "greedy", seed)


def sequential_methods(settings: EnsSettings) -> list[str]:
    """Names of the sequential policies."""
    return ["one_step", "two_step", *(f"ens_{budget}" for budget in settings.budgets)]


def citeseer(settings: EnsSettings, report: Report) -> tuple[csr_matrix, np.ndarray]:
    """Neighbour weights [N, N] and which points are positive [N]; the weights are kept under LOOPFM_HOME."""
    folder = search_data("ens") / "citeseer"
    adjacency, vertices = largest_component(np.loadtxt(folder / "edge_list", dtype=np.int64) - 1)
    labels = np.loadtxt(folder / "labels", dtype=np.int64)
    positives = labels[np.argsort(labels[:, 0]), 1][vertices] == settings.venue
    cache = Path(home(), "benchmarks", f"citeseer_{settings.modes}_{settings.neighbours}.npz")
    if not cache.exists():
        report.say("features and neighbours of CiteSeer ...")
        weights = knn_weights(laplacian_features(adjacency, settings.modes), settings.neighbours)
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_npz(cache, weights)
    return csr_matrix(load_npz(cache)), positives


def search(settings: EnsSettings, fresh: KnnModel, positives: np.ndarray, key: Key) -> Record:
    """One run: the positives found after each query, the one known at the start left out."""
    if key.function == "proof":
        return exactness(settings.exact_pools) if key.method == "exact" else pruning(settings, fresh, positives)
    model = fresh.copy()
    start = int(np.random.default_rng(key.seed).choice(np.flatnonzero(positives)))
    model.observe(start, 1)
    if key.function == "citeseer":
        budget = int(key.method.split("_")[1]) if key.method.startswith("ens") else max(settings.budgets)
        return {"found": sequential(model, positives, key.method, budget)}
    size = int(key.function.split("_")[1])
    return {"found": batched(model, positives, key, size, settings)}


def sequential(model: KnnModel, positives: np.ndarray, method: str, budget: int) -> list[int]:
    """Positives found after each of ``budget`` queries."""
    found = []
    for left in range(budget - 1, -1, -1):
        ahead = {"one_step": 0, "two_step": min(1, left)}.get(method, left)
        index = pick(model, ahead).index
        model.observe(index, int(positives[index]))
        found.append(model.found - 1)
    return found


def batched(model: KnnModel, positives: np.ndarray, key: Key, size: int, settings: EnsSettings) -> list[int]:
    """Positives found after each batch."""
    found, rng = [], np.random.default_rng(key.seed)
    for left in range(settings.batch_queries - size, -1, -size):
        if key.method == "myopic":
            batch = greedy_myopic(model, size)
        elif key.method == "simulated":
            batch = sequential_simulation(model, size, left)
        else:
            batch = greedy_batch(model, size, left, settings.samples, rng)
        for index in batch:
            model.observe(index, int(positives[index]))
        found.append(model.found - 1)
    return found


def exactness(pools: int) -> Record:
    """The look-ahead against dynamic programming on random pools: never above it, and equal to it with two queries."""
    excess: list[float] = []
    lost: dict[int, list[float]] = {queries: [] for queries in EXACT_QUERIES}
    for seed in range(pools):
        rng = np.random.default_rng(seed)
        model = KnnModel(random(LARGEST, LARGEST, 0.4, random_state=seed, format="csr"), prior=(0.1, 0.9))
        model.observe(int(rng.integers(LARGEST)), 1)
        for queries in EXACT_QUERIES:
            best = optimal_value(model, queries)
            gap = best - policy_value(model, queries, lambda state, left: pick(state, left - 1).index)
            excess.append(max(-gap, 0.0))
            lost[queries].append(gap / best)
    later = [loss for queries, losses in lost.items() if queries > 2 for loss in losses]
    return {"excess": max(excess), "lost_two": max(map(abs, lost[2])), "lost_later": float(np.mean(later))}


def pruning(settings: EnsSettings, fresh: KnnModel, positives: np.ndarray) -> Record:
    """Seconds (of the processor) of pruned and unpruned picks at the same states, and whether they agree."""
    model, seconds, same, share = fresh.copy(), {True: 0.0, False: 0.0}, True, []
    model.observe(int(np.flatnonzero(positives)[0]), 1)
    for observed in range(1, max(settings.timed_at) + 1):
        remaining = JUDGED - observed
        chosen = pick(model, remaining)
        if observed in settings.timed_at:
            picks = {}
            for prune in (True, False):
                start = time.process_time()
                picks[prune] = pick(model, remaining, prune=prune)
                seconds[prune] += time.process_time() - start
            same = same and picks[True].index == picks[False].index and picks[True].score == picks[False].score
            share.append(picks[True].scored / picks[False].scored)
        model.observe(chosen.index, int(positives[chosen.index]))
    states = len(settings.timed_at)
    return {
        "same": same,
        "scored_share": float(np.mean(share)),
        "pruned": seconds[True] / states,
        "unpruned": seconds[False] / states,
    }


def add_proofs(runs: Runs, report: Report) -> None:
    """Figures of dynamic programming and of pruning."""
    exact, prune = (runs.results.get(key, {}) for key in PROOFS)
    report.add("exact_excess_over_optimum", exact.get("excess", NOT_RUN), at_most(1e-9))
    report.add("exact_loss_two_queries_left", exact.get("lost_two", NOT_RUN), at_most(1e-9))
    report.add("exact_mean_loss_3_to_6_queries", exact.get("lost_later", NOT_RUN))
    report.add("pruned_same_picks", float(prune.get("same", NOT_RUN)), at_least(1))
    report.add("pruned_scored_share", prune.get("scored_share", NOT_RUN))
    pruned, unpruned = prune.get("pruned", NOT_RUN), prune.get("unpruned", NOT_RUN)
    report.add("pruned_seconds_a_pick", pruned)
    report.add("unpruned_seconds_a_pick", unpruned)
    report.add("pruned_speedup", unpruned / pruned, at_least(FASTER))


def add_sequential(settings: EnsSettings, runs: Runs, report: Report) -> None:
    """Mean positives at every budget, and ENS over the better myopic policy at 300 queries."""
    methods = sequential_methods(settings)
    seeds = runs.seeds("citeseer", methods)
    report.add("sequential_repeats", len(seeds), at_least(REPEATS))
    if not seeds:
        report.add(f"ens_over_myopic_at_{JUDGED}", NOT_RUN, at_least(ENS_OVER_MYOPIC))
        return
    means: dict[tuple[str, int], float] = {}
    for method in methods:
        for budget in settings.budgets:
            found = [runs.get("citeseer", method, seed)["found"] for seed in seeds]
            if len(found[0]) >= budget:
                means[method, budget] = float(np.mean([row[budget - 1] for row in found]))
                report.add(f"{method}_at_{budget}", means[method, budget])
        report.add(f"{method}_seconds", float(np.mean([runs.get("citeseer", method, s)["seconds"] for s in seeds])))
    best = {
        kind: max(
            value for (method, budget), value in means.items() if budget == JUDGED and method.startswith("ens") == kind
        )
        for kind in (True, False)
    }
    report.add(f"ens_over_myopic_at_{JUDGED}", best[True] / best[False], at_least(ENS_OVER_MYOPIC))


def add_batch(size: int, settings: EnsSettings, runs: Runs, report: Report) -> None:
    """Mean positives of each batch policy; the target: simulation finds no fewer than the greedy-myopic one."""
    function, means = f"batch_{size}", {}
    for method in ("myopic", "simulated", "greedy"):
        seeds = runs.seeds(function, [method])
        report.add(f"{function}_{method}_repeats", len(seeds), None if method == "greedy" else at_least(REPEATS))
        if seeds:
            means[method] = float(np.mean([runs.get(function, method, seed)["found"][-1] for seed in seeds]))
            report.add(f"{function}_{method}_at_{settings.batch_queries}", means[method])
    paired = runs.seeds(function, ["myopic", "simulated"])
    gain = [
        runs.get(function, "simulated", seed)["found"][-1] - runs.get(function, "myopic", seed)["found"][-1]
        for seed in paired
    ]
    report.add(f"{function}_simulated_minus_myopic", mean_of(gain), at_least(0))


def depends(settings: EnsSettings) -> list[int]:
    """What a single run's result depends on."""
    chosen = [settings.venue, settings.modes, settings.neighbours, settings.batch_queries, settings.samples]
    return [*chosen, max(settings.budgets), settings.exact_pools, *settings.timed_at]


if __name__ == "__main__":
    sys.exit(resumable("search_ens", SETTINGS, body, depends, VERSION))
