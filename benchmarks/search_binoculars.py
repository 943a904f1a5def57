"""BINOCULARS: GAP against expected improvement, and the error of integrals against uncertainty sampling.

Runs are kept one by one (``--state``) and shared with search_multi_step; ``--seconds`` bounds one call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from benchmarks.harness import Report, at_least, at_most
from benchmarks.search_functions import EffortSettings, add_gap, problem, run
from benchmarks.search_multi_step import VERSION, FunctionSettings, keys, whole
from benchmarks.search_state import NOT_RUN, Key, Record, Runs, mean_of, resumable
from feature_store.config import Strict
from search.binoculars.proposer import Binoculars
from search.binoculars.quadrature import integrate
from search.gp_search import Decider
from search.maximise import Effort
from search.multi_step.proposer import MultiStep
from search.surrogate import fit

METHODS = ("binoculars", "ei")
QUADRATURE_METHODS = ("integral", "log_det", "uncertainty")


class QuadratureSettings(Strict):
    """Mixtures of Gaussians over the unit cube: how many, of how many dimensions and components, and evaluations."""

    mixtures: int
    dimensions: int
    components: int
    budget: int


class BinocularsSettings(Strict):
    """``functions`` as in search_multi_step."""

    effort: EffortSettings
    functions: list[FunctionSettings]
    quadrature: QuadratureSettings


SETTINGS = BinocularsSettings


def body(settings: BinocularsSettings, report: Report, runs: Runs) -> None:
    """The limit q = 1, quadrature, then the searches."""
    torch.set_num_threads(1)
    effort = settings.effort.effort()
    report.add("last_point_against_ei", last_point_error(effort), at_most(0.0))
    name = quadrature_name(settings.quadrature)
    runs.complete(
        all_keys(settings),
        lambda key: integral(settings, key) if key.function == name else search(key, effort),
        report,
    )
    add_quadrature(settings.quadrature, runs, report)
    means: dict[str, list[float]] = {method: [] for method in METHODS}
    for function in settings.functions:
        seeds = runs.seeds(function.name, function.methods)
        report.add(f"{function.name}_seeds", len(seeds), at_least(function.seeds))
        if seeds:
            for method in function.methods:
                means[method].append(add_gap(runs, function.name, method, seeds, report))
    ours, peer = (mean_of(means[method]) for method in METHODS)
    complete = all(whole(runs, function) for function in settings.functions)
    report.add("mean_gap_minus_ei_so_far", ours - peer)
    report.add("mean_gap_minus_ei", ours - peer if complete else NOT_RUN, at_least(0))


def all_keys(settings: BinocularsSettings) -> Iterator[Key]:
    """Integrals, then searches."""
    for seed in range(settings.quadrature.mixtures):
        for method in QUADRATURE_METHODS:
            yield Key(quadrature_name(settings.quadrature), method, seed)
    yield from keys(settings.functions)


def quadrature_name(settings: QuadratureSettings) -> str:
    """Name of one kind of mixture in the state."""
    return f"mixture_{settings.dimensions}d_{settings.components}_{settings.budget}"


def search(key: Key, effort: Effort) -> Record:
    """One search of a function."""
    methods: dict[str, Decider] = {"ei": MultiStep("step", 1, effort), "binoculars": Binoculars("best", effort)}
    return run(problem(key.function), methods[key.method], key.seed)


@dataclass(frozen=True)
class Mixture:
    """A mixture of axis-parallel Gaussians: ``centers``, ``widths`` [M, D], ``weights`` [M]."""

    centers: np.ndarray
    widths: np.ndarray
    weights: np.ndarray

    @classmethod
    def draw(cls, dimensions: int, components: int, seed: int) -> Mixture:
        """A random one."""
        rng = np.random.default_rng(seed)
        shape = (components, dimensions)
        return cls(rng.uniform(0.1, 0.9, shape), rng.uniform(0.08, 0.3, shape), rng.dirichlet(np.ones(components)))

    def __call__(self, point: Tensor) -> float:
        """Density at ``point`` [D]."""
        return float(self.weights @ norm.pdf(point.numpy(), self.centers, self.widths).prod(axis=1))

    @property
    def integral(self) -> float:
        """Over the unit cube."""
        sides = norm.cdf(1.0, self.centers, self.widths) - norm.cdf(0.0, self.centers, self.widths)
        return float(self.weights @ sides.prod(axis=1))


def integral(settings: BinocularsSettings, key: Key) -> Record:
    """Relative errors |Z^ - Z| / Z of one integral, after each evaluation."""
    chosen = settings.quadrature
    mixture = Mixture.draw(chosen.dimensions, chosen.components, key.seed)
    estimates = integrate(
        mixture,
        chosen.dimensions,
        chosen.budget,
        key.seed,
        key.method,  # type: ignore[arg-type]  # one of QUADRATURE_METHODS
        settings.effort.effort(),
    )
    return {"errors": [abs(estimate - mixture.integral) / mixture.integral for estimate in estimates]}


def add_quadrature(settings: QuadratureSettings, runs: Runs, report: Report) -> None:
    """Median relative error of every method on the same mixtures, and the share on which a plan is nearer."""
    name = quadrature_name(settings)
    seeds = runs.seeds(name, QUADRATURE_METHODS)
    report.add("quadrature_mixtures", len(seeds), at_least(settings.mixtures))
    errors = {
        method: np.array([runs.get(name, method, seed)["errors"][-1] for seed in seeds])
        for method in QUADRATURE_METHODS
    }
    medians = {method: float(np.median(of)) if seeds else NOT_RUN for method, of in errors.items()}
    report.add("quadrature_error_uncertainty", medians["uncertainty"])
    for method in ("integral", "log_det"):
        target = at_most(medians["uncertainty"]) if method == "integral" else None
        report.add(f"quadrature_error_{method}", medians[method], target)
        nearer = errors[method] < errors["uncertainty"]
        report.add(f"quadrature_{method}_nearer", float(nearer.mean()) if seeds else NOT_RUN)


def last_point_error(effort: Effort) -> float:
    """Largest distance between the last point of BINOCULARS and that of expected improvement."""
    rng, worst = np.random.default_rng(0), 0.0
    for seed in range(5):
        belief = fit(torch.from_numpy(rng.random((6, 2))), torch.from_numpy(rng.standard_normal(6)))
        ours = Binoculars("best", effort).decide(belief, 1, 1, seed, None)
        peer = MultiStep("step", 1, effort).decide(belief, 1, 1, seed, None)
        worst = max(worst, float((ours - peer).abs().max()))
    return worst


def depends(settings: BinocularsSettings) -> dict[str, int]:
    """What a single run's result depends on."""
    return settings.effort.model_dump()


if __name__ == "__main__":
    sys.exit(resumable("search_binoculars", SETTINGS, body, depends, VERSION, shared_state="search_gap"))
