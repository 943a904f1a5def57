"""Functions to maximise on the unit cube, and one sequential search of them: what the benchmarks of search share.

GAP = (best found - best initial) / (optimum - best initial). Protocol of Jiang et al. (arXiv 2006.15779): 2 D random
initial points, 20 D evaluations, the model fitted anew before each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from botorch.test_functions import DropWave, EggHolder
from torch import Tensor

from benchmarks.harness import Report
from benchmarks.search_state import Record, Runs, search_data
from feature_store.config import Strict
from search.gp_search import Decider
from search.maximise import Effort
from search.surrogate import fit

INITIAL, ROUNDS = 2, 20


class EffortSettings(Strict):
    """How hard each decision is searched; see ``search.maximise.Effort``."""

    restarts: int
    candidates: int
    steps: int
    draws: int

    def effort(self) -> Effort:
        """The same, for the methods."""
        return Effort(**self.model_dump())


@dataclass(frozen=True)
class Problem:
    """``grid`` [N, D] and ``values`` [N]: the points that may be evaluated, None where all of the cube may."""

    dimensions: int
    optimum: float
    evaluate: Callable[[Tensor], float] | None = None
    grid: Tensor | None = None
    values: Tensor | None = None

    def session(self) -> Session:
        """A fresh search: no grid point is taken yet."""
        return Session(self)


class Session:
    """Evaluations of one search."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.free = None if problem.grid is None else torch.ones(len(problem.grid), dtype=torch.bool)

    def evaluate(self, point: Tensor) -> tuple[Tensor, float]:
        """The point [D] that was evaluated, on a grid the nearest one not taken yet, and its value."""
        grid, values = self.problem.grid, self.problem.values
        if grid is None or values is None or self.free is None:
            if self.problem.evaluate is None:
                raise ValueError("a problem is a function or a grid")
            return point, self.problem.evaluate(point)
        distance = (grid - point).square().sum(-1)
        place = int(torch.where(self.free, distance, torch.inf).argmin())
        self.free[place] = False
        return grid[place], float(values[place])


@cache
def problem(name: str) -> Problem:
    """A test function, or a table of data/search/enbo by its name.

    Raises:
        MissingDataError: the table is not there.
    """
    if name == "eggholder":
        egg = EggHolder(negate=True).to(torch.float64)
        return Problem(2, float(egg.optimal_value), lambda point: float(egg(1024 * point - 512)))
    if name == "dropwave":
        wave = DropWave(negate=True).to(torch.float64)
        return Problem(2, float(wave.optimal_value), lambda point: float(wave(10.24 * point - 5.12)))
    rows = np.genfromtxt(search_data("enbo") / f"{name}_on_grid.csv", delimiter=",")
    rows = rows[np.isfinite(rows).all(axis=1)]
    low, high = rows[:, :-1].min(axis=0), rows[:, :-1].max(axis=0)
    values = torch.from_numpy(-(rows[:, -1] - rows[:, -1].mean()) / rows[:, -1].std())
    grid = torch.from_numpy((rows[:, :-1] - low) / (high - low))
    return Problem(grid.shape[1], float(values.max()), grid=grid, values=values)


def run(task: Problem, decider: Decider, seed: int) -> Record:
    """One search: GAP after each evaluation, and seconds of processor time a decision."""
    session, rng = task.session(), np.random.default_rng(seed)
    rows = [session.evaluate(torch.from_numpy(rng.random(task.dimensions))) for _ in range(INITIAL * task.dimensions)]
    points, values = torch.stack([point for point, _ in rows]), torch.tensor([v for _, v in rows], dtype=torch.float64)
    first, gaps, seconds = float(values.max()), [], 0.0
    rounds = ROUNDS * task.dimensions
    for left in range(rounds, 0, -1):
        start = time.process_time()
        belief = fit(points, values)
        newest = float(belief.values[-1]) if left < rounds else None
        chosen = decider.decide(belief, left, 1, 1_000 * seed + left, newest)[0]
        seconds += time.process_time() - start
        point, value = session.evaluate(chosen)
        points = torch.cat([points, point[None]])
        values = torch.cat([values, torch.tensor([value], dtype=torch.float64)])
        gaps.append((float(values.max()) - first) / (task.optimum - first) if task.optimum > first else 1.0)
    return {"gap": gaps, "decision_seconds": seconds / rounds}


def final_gaps(runs: Runs, function: str, method: str, seeds: list[int]) -> np.ndarray:
    """GAP [seeds] after the last evaluation."""
    return np.array([runs.get(function, method, seed)["gap"][-1] for seed in seeds])


def add_gap(runs: Runs, function: str, method: str, seeds: list[int], report: Report) -> float:
    """Mean GAP of a method, its standard error, and seconds a decision."""
    gaps = final_gaps(runs, function, method, seeds)
    mean = report.add(f"{function}_{method}_gap", float(gaps.mean()))
    report.add(f"{function}_{method}_gap_se", float(gaps.std(ddof=1) / len(gaps) ** 0.5) if len(gaps) > 1 else np.nan)
    cost = [runs.get(function, method, seed)["decision_seconds"] for seed in seeds]
    report.add(f"{function}_{method}_seconds_a_decision", float(np.mean(cost)))
    return mean


def paired_interval(
    difference: np.ndarray, level: float, seed: int = 0, resamples: int = 10_000
) -> tuple[float, float]:
    """Bootstrap interval of the mean of paired differences [N]."""
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(len(difference), size=(resamples, len(difference)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
