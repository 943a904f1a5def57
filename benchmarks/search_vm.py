"""The real job: a VM found by a search against the hand-set one and against random search, on a project's own tables.

The hand-set VM is the project's recipe with its weight of distillation chosen on validation, zero included, and its
learning rate and dropout tuned by trials of its own. Every search gets the same trials and is cut at the same number of
sample-epochs. Winners are chosen on validation, trained again on fresh seeds, others for each search, and tested once;
a search without a winner is counted and has nothing to test.

The workspace stays (benchmarks/experiments.py): a run that was stopped goes on where it stopped.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import cast

from pydantic import Field

from benchmarks.experiments import WorldSettings, experiment
from benchmarks.harness import Report, at_least, benchmark
from benchmarks.search_vm_figures import (
    Compared,
    Retrained,
    add_acceptable,
    add_differences,
    add_protocol,
    add_spent,
    chosen_within,
    spent,
)
from feature_store.config import Strict
from models.config import VmConfig
from pipelines.config import Arm, ProjectConfig
from pipelines.context import RunContext
from pipelines.run import run_loop
from pipelines.scoring import score_parts
from pipelines.search_objective import TrialTraining
from pipelines.search_vm import SearchPlan, SearchResult, begin, search_vm
from pipelines.train_vm import load_trained
from pipelines.windows import RunWindows
from search.driver import Search
from search.ens.proposer import Acceptable
from search.parameters import Float, LogFloat
from search.random_search import RandomSearch
from search.space import Config, SearchSpace
from search.trial import Outcome, best, value

FRESH_SEED = 100


class SearchVmSettings(Strict):
    """``method``: compared with random search; ``retrains``: fresh seeds of each search's winner."""

    world: WorldSettings
    vertical: str
    trials: int = Field(ge=1)
    hand_trials: int = Field(ge=1)
    seeds: int = Field(ge=1)
    retrains: int = Field(ge=1)
    method: str = "predictor"


SETTINGS = SearchVmSettings


@dataclass(frozen=True)
class Job:
    """What every search of the benchmark works on."""

    context: RunContext
    settings: SearchVmSettings
    windows: RunWindows

    def search(self, method: str, seed: int, hand_set_run: str | None) -> SearchResult:
        """One search; ``hand_set_run``: of another one of this seed, which trained the VM set by hand."""
        plan = SearchPlan(self.settings.trials, method, seed=seed)
        return search_vm(self.context, self.settings.vertical, self.context.space(), *self._parts, plan, hand_set_run)

    def begin(self, plan: SearchPlan) -> TrialTraining:
        """How trials of a search are trained."""
        return begin(self.context, self.settings.vertical, self.context.space(), *self._parts, plan)

    def tests(self, training: TrialTraining, vm: VmConfig, search: int) -> Retrained:
        """A VM on the test window, trained on seeds that no other search's VMs get."""
        scores, flops = [], []
        first = FRESH_SEED + search * self.settings.retrains
        for seed in range(first, first + self.settings.retrains):
            run_id, outcome = replace(training, seed=seed).train(vm, "again on a fresh seed")
            artifact = load_trained(self.context, run_id)
            space, test = self.context.space(), self.windows.test
            known_at = self.context.dataset.clock.end(test[-1])
            scores.append(score_parts(self.context, self.settings.vertical, artifact, space, test, known_at))
            flops.append(outcome.flops)
        return Retrained(scores, max(flops))

    @property
    def _parts(self) -> tuple[list[str], list[str]]:
        return self.windows.vm_train, self.windows.vm_validation


def body(settings: SearchVmSettings, report: Report) -> None:
    """Make the tables, tune the recipe, search, retrain, test.

    Raises:
        MissingDataError: the data set is not there.
    """
    with experiment(settings.world, report) as made:
        context = made.context
        run_loop(context, made.windows, [context.config.vm.scheduled_arm], 1)
        job = Job(context, settings, made.windows)
        context.config = with_best_weight(job, report)
        context.config = tuned(job, report)
        _compare(job, report)


def with_best_weight(job: Job, report: Report) -> ProjectConfig:
    """The project with the recipe's weight of distillation of the lowest validation NE; weight 0 is its arm without."""
    context, vm = job.context, job.context.config.vm
    weights = vm.weights_to_try(vm.scheduled_arm)
    if not weights:
        return context.config
    training = job.begin(SearchPlan(len(weights), "random"))
    found = {
        weight: training.train(training.hand_set.model_copy(update={"kd_weight": weight}), f"weight {weight}")[1].ne
        for weight in weights
    }
    context.registry.close_run(training.parent)
    weight = min(found, key=found.__getitem__)
    report.add("hand_set_kd_weight", weight)
    plain = cast("Arm", vm.scheduled_arm.removesuffix("_kd"))
    changes = {"kd_weight": weight} if weight else {"scheduled_arm": plain}
    return context.config.model_copy(update={"vm": vm.model_copy(update={"kd_weights": [], **changes})})


def tuned(job: Job, report: Report) -> ProjectConfig:
    """The project with the recipe's learning rate and dropout chosen by ``hand_trials`` random trials."""
    context, settings = job.context, job.settings
    training = job.begin(SearchPlan(settings.hand_trials, "random"))
    space = SearchSpace([LogFloat("learning_rate", 5e-4, 1e-2), Float("dropout", 0.0, 0.5)])

    def changed(config: Config, base: VmConfig) -> VmConfig:
        train = base.train.model_copy(update={"learning_rate": config["learning_rate"]})
        return base.model_copy(update={"dropout": config["dropout"], "train": train})

    def objective(config: Config, trial_id: int) -> Outcome:
        return training.train(changed(config, training.hand_set), f"by hand {trial_id}")[1]

    history = Search(RandomSearch(space), objective, budget=settings.hand_trials).run()
    found, as_set = best(history), training.train(training.hand_set, "by hand, as set")[1]
    context.registry.close_run(training.parent)
    report.add("hand_trials", len(history), at_least(20))
    report.add("hand_set_validation_ne", as_set.ne)
    if found is None or found.ne is None or found.ne >= as_set.ne:
        return context.config
    report.add("hand_tuned_validation_ne", found.ne)
    base = changed(found.config, context.config.vm.base)
    return context.config.model_copy(update={"vm": context.config.vm.model_copy(update={"base": base})})


def _compare(job: Job, report: Report) -> None:
    method, compared = job.settings.method, []
    for seed in range(job.settings.seeds):
        compared.append(_compared(job, seed, report))
        add_spent(seed, compared[-1], report)
    add_protocol(compared, report)
    add_differences(method, compared, report)
    add_acceptable(compared, report)


def _compared(job: Job, seed: int, report: Report) -> Compared:
    """The searches of one seed: they share the training of the VM set by hand."""
    method, results = job.settings.method, dict[str, SearchResult]()
    for name in (method, "random", "ens"):
        shared = next((result.hand_set_run for result in results.values()), None)
        results[name] = job.search(name, seed, shared)
    histories, by_hand = {name: result.history for name, result in results.items()}, results["random"].hand_set
    training = job.begin(SearchPlan(job.settings.trials, "random", seed=seed))
    budget = min(spent(histories[name]) for name in (method, "random"))
    winners: dict[str, Retrained | None] = {}
    for name in (method, "random"):
        winner = chosen_within(histories[name], budget, by_hand.flops)
        report.add(f"{name}_{seed}_winner_validation_ne", math.nan if winner is None else value(winner))
        winners[name] = None
        if winner is not None:
            winners[name] = job.tests(training, training.vm_space.to_vm(winner.config), seed)
    hand = job.tests(training, training.hand_set, seed)
    return Compared(histories, Acceptable(by_hand.ne, by_hand.flops), budget, hand, winners)


if __name__ == "__main__":
    sys.exit(benchmark("search_vm", SETTINGS, body))
