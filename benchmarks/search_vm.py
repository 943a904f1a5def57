"""The real job: a VM found by a search against the hand-set one and against random search, on a project's own tables.

The hand-set VM is the project's recipe with its weight of distillation chosen on validation, zero included, and its
learning rate and dropout tuned by trials of its own. Every search gets the same trials and is cut at the same number of
sample-epochs. Winners are chosen on validation, trained again on fresh seeds, others for each search, and tested once.

The workspace stays (benchmarks/experiments.py): a run that was stopped goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from benchmarks.experiments import WorldSettings, experiment
from benchmarks.harness import Report, at_least, at_most, benchmark
from feature_store.config import Strict
from models.bootstrap import paired_difference
from models.config import VmConfig
from models.metrics import Scores
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
from search.trial import Outcome, Trial, best, done

FRESH_SEED = 100
BOOTSTRAP = 400


class SearchVmSettings(Strict):
    """``method``: compared with random search; ``retrains``: fresh seeds of each search's winner."""

    world: WorldSettings
    vertical: str
    trials: int
    hand_trials: int
    seeds: int
    retrains: int
    method: str = "predictor"


SETTINGS = SearchVmSettings


@dataclass(frozen=True)
class Job:
    """What every search of the benchmark works on."""

    context: RunContext
    settings: SearchVmSettings
    windows: RunWindows

    def search(self, method: str, seed: int) -> tuple[SearchResult, TrialTraining]:
        """One search, and the trainings it made."""
        context, windows = self.context, self.windows
        parts = (windows.vm_train, windows.vm_validation)
        plan = SearchPlan(self.settings.trials, method, seed=seed)
        result = search_vm(context, self.settings.vertical, context.space(), *parts, plan)
        return result, begin(context, self.settings.vertical, context.space(), *parts, plan)

    def tests(self, training: TrialTraining, vm: VmConfig, search: int) -> list[Scores]:
        """Scores on the test window of a VM trained on seeds that no other search's VMs get."""
        scores, first = [], FRESH_SEED + search * self.settings.retrains
        for seed in range(first, first + self.settings.retrains):
            run_id, _ = replace(training, seed=seed).train(vm, "again on a fresh seed")
            artifact = load_trained(self.context, run_id)
            space, test = self.context.space(), self.windows.test
            known_at = self.context.dataset.clock.end(test[-1])
            scores.append(score_parts(self.context, self.settings.vertical, artifact, space, test, known_at))
        return scores


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
    windows = (job.windows.vm_train, job.windows.vm_validation)
    training = begin(context, job.settings.vertical, context.space(), *windows, SearchPlan(len(weights), "random"))
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
    windows = (job.windows.vm_train, job.windows.vm_validation)
    plan = SearchPlan(settings.hand_trials, "random")
    training = begin(context, settings.vertical, context.space(), *windows, plan)
    space = SearchSpace([LogFloat("learning_rate", 5e-4, 1e-2), Float("dropout", 0.0, 0.5)])

    def changed(config: Config, base: VmConfig) -> VmConfig:
        train = base.train.model_copy(update={"learning_rate": config["learning_rate"]})
        return base.model_copy(update={"dropout": config["dropout"], "train": train})

    def objective(config: Config, trial_id: int) -> Outcome:
        return training.train(changed(config, training.hand_set), f"by hand {trial_id}")[1]

    history = Search(RandomSearch(space), objective, budget=settings.hand_trials).run()
    found, as_set = best(history), training.train(training.hand_set, "by hand, as set")[1]
    context.registry.close_run(training.parent)
    report.add("hand_set_validation_ne", as_set.ne)
    if found is None or found.ne is None or found.ne >= as_set.ne:
        return context.config
    report.add("hand_tuned_validation_ne", found.ne)
    base = changed(found.config, context.config.vm.base)
    return context.config.model_copy(update={"vm": context.config.vm.model_copy(update={"base": base})})


def _compare(job: Job, report: Report) -> None:
    winners: dict[str, list[Scores]] = {job.settings.method: [], "random": []}
    hand: list[Scores] = []
    accepted = {"ens": 0, "random": 0}
    for seed in range(job.settings.seeds):
        found = {method: job.search(method, seed) for method in (job.settings.method, "random", "ens")}
        by_hand, training = found["random"][0].hand_set, found["random"][1]
        bar = Acceptable(by_hand.ne, by_hand.flops)
        spent = {method: sum(trial.spent for trial in result.history) for method, (result, _) in found.items()}
        for method in accepted:
            fitting = within(found[method][0].history, min(spent[m] for m in accepted))
            accepted[method] += sum(bar(trial) for trial in fitting)
        hand += job.tests(training, training.hand_set, seed)
        budget = min(spent[method] for method in winners)
        for method, scores in winners.items():
            winner = chosen_within(found[method][0].history, budget, by_hand.flops)
            vm = training.hand_set if winner is None else training.vm_space.to_vm(winner.config)
            scores += job.tests(training, vm, seed)
            report.add(
                f"{method}_{seed}_winner_validation_ne", np.nan if winner is None else float(winner.ne or np.nan)
            )
    _figures(job.settings.method, winners, hand, report)
    report.add("ens_acceptable", accepted["ens"])
    report.add("random_acceptable", accepted["random"])
    report.add("ens_more_acceptable", accepted["ens"] - accepted["random"], at_least(1))


def chosen_within(history: Sequence[Trial], budget: float, flops: float) -> Trial | None:
    """The lowest validation NE among the trials ``within`` a budget, at most ``flops`` each."""
    return best([trial for trial in done(within(history, budget)) if (trial.flops or 0.0) <= flops])


def within(history: Sequence[Trial], budget: float) -> list[Trial]:
    """The first trials, as many as ``budget`` sample-epochs pay for."""
    spent = np.cumsum([trial.spent for trial in history])
    return [trial for trial, total in zip(history, spent, strict=True) if total <= budget]


def _figures(method: str, winners: dict[str, list[Scores]], hand: list[Scores], report: Report) -> None:
    for name, scores in (("hand", hand), ("random", winners["random"])):
        difference = paired_difference("ne", winners[method], scores, BOOTSTRAP)
        report.add(f"{method}_minus_{name}_ne", difference.mean, at_most(0.0) if name == "random" else None)
        report.add(f"{method}_minus_{name}_ne_low", difference.low)
        report.add(f"{method}_minus_{name}_ne_high", difference.high, at_most(0.0) if name == "hand" else None)


if __name__ == "__main__":
    sys.exit(benchmark("search_vm", SETTINGS, body))
