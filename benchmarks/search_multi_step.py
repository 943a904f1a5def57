"""Multi-step trees: exact where that can be checked, and GAP of EI, 2-path and 12-ENO on test functions and real grids.

Runs are kept one by one (``--state``) and shared with search_binoculars; ``--seconds`` bounds one call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from botorch.acquisition import ExpectedImprovement

from benchmarks.harness import Report, at_least, at_most
from benchmarks.nested_quadrature import NestedQuadrature
from benchmarks.search_functions import EffortSettings, add_gap, final_gaps, paired_interval, problem, run
from benchmarks.search_state import NOT_RUN, Key, Record, Runs, resumable
from feature_store.config import Strict
from search.gp_search import Decider
from search.maximise import Effort
from search.multi_step.plan import make_plan
from search.multi_step.proposer import MultiStep
from search.multi_step.tree import TreeShape, TreeValue, k_step
from search.surrogate import Belief, fit, gp_model

EI_TOLERANCE = 1e-6
QUADRATURE_TOLERANCE = 0.01
LEVEL = 0.9
POOLED = ("eggholder", "dropwave")
PROOF_OUTCOMES = 40
PROOF = Key("proof", "exactness", 0)
VERSION = 1
"""Of the code that runs depend on, those of search_binoculars too."""


class FunctionSettings(Strict):
    """A function or table, how many seeds the claim needs, and the methods run on it."""

    name: str
    seeds: int
    methods: list[str]


class MultiStepSettings(Strict):
    """``functions`` in the order of running; the first seeds of all come before the later ones of any."""

    effort: EffortSettings
    functions: list[FunctionSettings]


SETTINGS = MultiStepSettings


def body(settings: MultiStepSettings, report: Report, runs: Runs) -> None:
    """Proofs in one dimension, then the searches."""
    torch.set_num_threads(1)
    runs.complete([PROOF], lambda key: exactness(), report)
    add_exactness(runs, report)
    runs.complete(
        keys(settings.functions),
        lambda key: run(problem(key.function), decider(key.method, settings.effort.effort()), key.seed),
        report,
    )
    for function in settings.functions:
        seeds = runs.seeds(function.name, function.methods)
        report.add(f"{function.name}_seeds", len(seeds), at_least(function.seeds))
        if seeds:
            for method in function.methods:
                add_gap(runs, function.name, method, seeds, report)
    add_pooled(settings.functions, runs, report)


def decider(method: str, effort: Effort) -> Decider:
    """ei, or K-path, K-step, K-eno."""
    if method == "ei":
        return MultiStep("step", 1, effort)
    depth, kind = method.split("_")
    return MultiStep(kind, int(depth), effort)  # type: ignore[arg-type]  # MultiStep names an unknown kind


def keys(functions: list[FunctionSettings]) -> Iterator[Key]:
    """Seed by seed, so that a call that is cut short leaves every method with the same seeds."""
    for seed in range(max(function.seeds for function in functions)):
        for function in functions:
            if seed < function.seeds:
                yield from (Key(function.name, method, seed) for method in function.methods)


def line(seed: int) -> Belief:
    """A one-dimensional belief of four random observations."""
    rng = np.random.default_rng(seed)
    model = gp_model(torch.from_numpy(rng.random((4, 1))), torch.from_numpy(rng.standard_normal(4)))
    model.covar_module.base_kernel.lengthscale = 0.15
    model.likelihood.noise = 1e-3
    return Belief(model)


def exactness() -> Record:
    """The tree of one step against EI; the trees of two and three against nested quadrature."""
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(5):
        belief = fit(torch.from_numpy(rng.random((8, 3))), torch.from_numpy(rng.standard_normal(8)))
        points = torch.from_numpy(rng.random((200, 1, 3)))
        peer = ExpectedImprovement(belief.model, belief.best)(points)
        worst = max(worst, float((TreeValue(belief, k_step(1))(points).exp() - peer).abs().max()))
    found, effort = {"1": worst}, Effort(restarts=6, steps=200)
    for steps, grid, seeds in ((2, 201, range(3)), (3, 101, range(1))):
        shape = TreeShape((PROOF_OUTCOMES,) * (steps - 1))
        found[f"{steps}"] = max(_error(line(seed), shape, grid, effort) for seed in seeds)
    found["few"] = max(_error(line(seed), k_step(2), 201, effort) for seed in range(3))
    return found


def add_exactness(runs: Runs, report: Report) -> None:
    """Figures of ``exactness``."""
    found = runs.results.get(PROOF, {})
    report.add("one_step_against_ei", found.get("1", NOT_RUN), at_most(EI_TOLERANCE))
    report.add("2_steps_against_quadrature", found.get("2", NOT_RUN), at_most(QUADRATURE_TOLERANCE))
    report.add("3_steps_against_quadrature", found.get("3", NOT_RUN), at_most(QUADRATURE_TOLERANCE))
    report.add("2_steps_10_outcomes_against_quadrature", found.get("few", NOT_RUN))


def _error(belief: Belief, shape: TreeShape, grid: int, effort: Effort) -> float:
    """Relative error of a maximised tree's value at its own first point."""
    exact = NestedQuadrature(belief, grid, outcomes=61)
    plan = make_plan(belief, shape, 0, effort)
    place = int(np.abs(exact.grid - float(plan.first)).argmin())
    return abs(plan.value / exact.value(place, shape.stages) - 1)


def whole(runs: Runs, function: FunctionSettings) -> bool:
    """Whether all runs of a function are there: a claim on fewer is none."""
    return len(runs.seeds(function.name, function.methods)) >= function.seeds


def add_pooled(functions: list[FunctionSettings], runs: Runs, report: Report) -> None:
    """12-ENO minus EI over both test functions: mean paired difference and its interval, which must be above 0.

    The interval is ``NOT_RUN`` until all seeds are there.
    """
    pooled_of = [function for function in functions if function.name in POOLED]
    differences = []
    for name in (function.name for function in pooled_of):
        seeds = runs.seeds(name, ["ei", "12_eno"])
        differences.append(final_gaps(runs, name, "12_eno", seeds) - final_gaps(runs, name, "ei", seeds))
    pooled = np.concatenate(differences)
    if len(pooled):
        report.add("eno_minus_ei", float(pooled.mean()))
    complete = len(pooled_of) == len(POOLED) and all(whole(runs, function) for function in pooled_of)
    low, high = paired_interval(pooled, LEVEL) if complete else (NOT_RUN, NOT_RUN)
    report.add("eno_minus_ei_low", low, at_least(0))
    report.add("eno_minus_ei_high", high)


def depends(settings: MultiStepSettings) -> dict[str, int]:
    """What a single run's result depends on."""
    return settings.effort.model_dump()


if __name__ == "__main__":
    sys.exit(resumable("search_multi_step", SETTINGS, body, depends, VERSION, shared_state="search_gap"))
