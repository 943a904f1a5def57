"""The D-VAE on ENAS cells, Bayesian networks and bodies of VMs: what it rebuilds, what latents are worth, its speed.

Each task trains one model, whose checkpoint, log and weights lie under LOOPFM_HOME; a training that was interrupted
goes on. Decoding masks nothing. The networks' target is their BIC on simulated patients of the Asia network, computed
exactly; a cell that a search finds is in no table, so boosted trees fitted to all cells of the file predict its value.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from benchmarks import dvae_regression
from benchmarks.dvae_speed import training_seconds
from benchmarks.dvae_tasks import Bic, GraphTask, Objective, asia, enas_task, network_task, vm_task
from benchmarks.harness import Report, Target, at_least, at_most
from benchmarks.search_state import NOT_RUN, Key, Record, Runs, resumable, search_data
from feature_store.config import Strict
from pipelines.config import home
from search.dvae.config import DvaeConfig, DvaeTraining
from search.dvae.dags import DagBatch
from search.dvae.latent import LatentBo, LatentScale
from search.dvae.metrics import prior, reconstruction, scaled_prior
from search.dvae.model import Dvae
from search.dvae.train import DvaeTrainer, EpochLosses, save_dvae
from search.evolution import RegularizedEvolution
from search.proposer import Proposer
from search.random_search import RandomSearch
from search.trial import Outcome, Trial, best

RECONSTRUCTION, VALIDITY, FASTER = 0.99, 0.95, 10.0
TaskName = Literal["enas", "networks", "vm"]
METHODS = ("random", "evolution", "latent")
VERSION = 1
"""Of the code that runs depend on."""


class TaskSettings(Strict):
    """``graphs``: random ones to draw, a tenth of them held out; ENAS's come from its file."""

    graphs: int = 0
    training: DvaeTraining


class ModelSettings(Strict):
    """Sizes of every task's model."""

    hidden: int
    latent: int


class MetricSettings(Strict):
    """Encodings of a test graph, decodings of a latent vector, latent vectors drawn from the prior."""

    encodings: int
    decodings: int
    prior: int


class RegressionSettings(Strict):
    """``exact_rows``: training rows that the exact Gaussian processes see; all others see all."""

    inducing: int
    sparse_epochs: int
    exact_rows: int


class SearchSettings(Strict):
    """Evaluations of one search, in batches; the first ``initial`` are random and equal for all methods of a seed."""

    evaluations: int
    batch: int
    initial: int
    seeds: int


class SpeedSettings(Strict):
    """``batches`` of ``batch_size`` graphs timed, at most an epoch."""

    batch_size: int
    batches: int


class DvaeSettings(Strict):
    """``asia_rows``: simulated patients."""

    model: ModelSettings
    tasks: dict[TaskName, TaskSettings] = Field(min_length=1)
    asia_rows: int
    metrics: MetricSettings
    regression: RegressionSettings
    search: SearchSettings
    speed: SpeedSettings


SETTINGS = DvaeSettings


def body(settings: DvaeSettings, report: Report, runs: Runs) -> None:
    """Every task in turn; the speed on the first one's graphs."""
    torch.set_num_threads(1)
    for name, chosen in settings.tasks.items():
        task = open_task(name, chosen, settings)
        trained = Trained(task, chosen.training, settings, report, runs.over)
        if not trained.whole:
            report.say(f"the time given is over: {len(trained.history)} of {chosen.training.epochs} epochs of {name}")
            report.add(f"{name}_untrained_epochs", chosen.training.epochs - len(trained.history), at_most(0))
            return
        runs.complete([Key(trained.name, "autoencoder", 0)], trained.run, report)
        add_autoencoder(trained, runs, report)
        if name == next(iter(settings.tasks)):
            runs.complete([Key(trained.name, "speed", 0)], trained.run, report)
            add_speed(trained, runs, report)
        if len(task.train_y):
            runs.complete(keys(trained), trained.run, report)
            add_regression(trained, runs, report)
            add_search(trained, runs, report)


def open_task(name: TaskName, chosen: TaskSettings, settings: DvaeSettings) -> GraphTask:
    """Graphs, codec and targets of a task."""
    if name == "enas":
        return enas_task(search_data("dvae") / "final_structures6.txt")
    return network_task(chosen.graphs, asia(settings.asia_rows)) if name == "networks" else vm_task(chosen.graphs)


def keys(trained: Trained) -> Iterator[Key]:
    """Runs of a task with a target."""
    for inputs in ("latent", "raw"):
        for method in ("ridge", "sparse", "exact", "boosting"):
            yield Key(trained.name, f"{inputs}_{method}", 0)
    for seed in range(trained.settings.search.seeds):
        for method in METHODS:
            yield Key(trained.name, method, seed)


class Trained:
    """A task and its trained model; ``name`` tells trainings of other settings apart.

    ``over`` ends the training after an epoch; ``whole`` tells that it did not. A part of a training has no figures.
    """

    def __init__(
        self,
        task: GraphTask,
        training: DvaeTraining,
        settings: DvaeSettings,
        report: Report,
        over: Callable[[], bool],
    ) -> None:
        self.task, self.settings, self.say = task, settings, report.say
        sizes = {"types": task.codec.types, "max_vertices": task.codec.max_vertices}
        self.config = DvaeConfig(**sizes, **settings.model.model_dump())
        made_by = json.dumps([self.config.model_dump(), training.model_dump(), len(task.train)])
        self.name = f"{task.name}-{hashlib.sha256(made_by.encode()).hexdigest()[:8]}"
        self.train, self.test = (DagBatch.of(dags, task.codec.max_vertices) for dags in (task.train, task.test))
        self.model, self.history = self._fit(training, over)
        self.whole = len(self.history) == training.epochs
        if not self.whole:
            return
        self.model.eval()
        self.latents = self.model.means(self.train)
        report.add(f"{task.name}_train_graphs", len(self.train))
        report.add(f"{task.name}_test_graphs", len(self.test))
        report.add(f"{task.name}_hidden", self.config.hidden)
        report.add(f"{task.name}_parameters", sum(parameter.numel() for parameter in self.model.parameters()))
        report.add(f"{task.name}_epochs", len(self.history))
        report.add(f"{task.name}_training_minutes", sum(record.seconds for record in self.history) / 60)
        report.add(f"{task.name}_last_type_loss", self.history[-1].types)
        report.add(f"{task.name}_last_edge_loss", self.history[-1].edges)

    def _fit(self, training: DvaeTraining, over: Callable[[], bool]) -> tuple[Dvae, list[EpochLosses]]:
        """Train, or go on; the curve and the weights are written beside the checkpoint."""
        stem = Path(home(), "benchmarks", "dvae", self.name)
        trainer = DvaeTrainer(self.config, training, self.train, stem.with_suffix(".checkpoint"))
        model = trainer.fit(lambda record: self.say(f"{self.task.name} {json.dumps(asdict(record))}"), over)
        save_dvae(stem.with_suffix(".pt"), model)
        lines = [json.dumps(asdict(record)) for record in trainer.history]
        stem.with_suffix(".jsonl").write_text("\n".join(lines) + "\n")
        return model, trainer.history

    def run(self, key: Key) -> Record:
        """One run of the task."""
        if key.method == "autoencoder":
            return self.autoencoder()
        if key.method == "speed":
            return self.speed()
        if key.method in METHODS:
            return self.search(key)
        inputs, method = key.method.split("_")
        return self.regression(inputs, method)

    def autoencoder(self) -> Record:
        """Reconstruction of the test graphs; graphs of random latent vectors."""
        chosen, codec = self.settings.metrics, self.task.codec
        rebuilt = reconstruction(self.model, codec, self.test, chosen.encodings, chosen.decodings)
        z = scaled_prior(self.latents, chosen.prior, torch.Generator().manual_seed(1))
        return {**asdict(rebuilt), **asdict(prior(self.model, codec, self.task.train, z, chosen.decodings))}

    def regression(self, inputs: str, method: str) -> Record:
        """RMSE and r on the test graphs."""
        task, chosen = self.task, self.settings.regression
        if inputs == "latent":
            X, X_test = self.latents.double().numpy(), self.model.means(self.test).double().numpy()
        else:
            X, X_test = task.raw(task.train), task.raw(task.test)
        X, X_test = _standard(X, X), _standard(X, X_test)
        y, y_test = _standard(task.train_y, task.train_y), _standard(task.train_y, task.test_y)
        predict: dict[str, Callable[[], Any]] = {
            "ridge": lambda: dvae_regression.ridge(X, y, X_test),
            "sparse": lambda: dvae_regression.sparse_gp(X, y, X_test, chosen.inducing, chosen.sparse_epochs),
            "exact": lambda: dvae_regression.exact_gp(X, y, X_test, chosen.exact_rows),
            "boosting": lambda: dvae_regression.boosting(X, y, X_test),
        }
        return asdict(dvae_regression.judge(predict[method](), y_test))

    def search(self, key: Key) -> Record:
        """The best value so far after each evaluation; larger is better."""
        chosen, space = self.settings.search, self.task.space
        proposers: dict[str, Callable[[], Proposer]] = {
            "random": lambda: RandomSearch(space, key.seed),
            "evolution": lambda: RegularizedEvolution(space, key.seed, population=chosen.initial),
            "latent": lambda: LatentBo(
                space, self.task.codec, self.model, LatentScale.of(self.latents), key.seed, chosen.initial
            ),
        }
        proposer, history, found = proposers[key.method](), list[Trial](), list[float]()
        while left := chosen.evaluations - len(history):
            for config in proposer.ask(history, left, min(chosen.batch, left)):
                history.append(Trial(len(history), config).finished(Outcome(-self.objective(config))))
                winner = best(history)
                found.append(-float(winner.ne) if winner is not None and winner.ne is not None else np.nan)
        return {"best": found}

    @property
    def objective(self) -> Objective:
        """Value of a configuration, larger is better; made once."""
        if not hasattr(self, "_objective"):
            self._objective = (
                _networks_value(self.settings) if self.task.name == "networks" else _cells_value(self.task)
            )
        return self._objective

    def speed(self) -> Record:
        """Seconds of training steps, ours and the plain loop's."""
        return training_seconds(self.config, self.task.train, **self.settings.speed.model_dump())


def _networks_value(settings: DvaeSettings) -> Objective:
    score = Bic(asia(settings.asia_rows))
    return lambda config: score(config["network"])


def _cells_value(task: GraphTask) -> Objective:
    y = np.concatenate([task.train_y, task.test_y])
    trees = dvae_regression.booster(task.raw([*task.train, *task.test]), y)
    return lambda config: float(trees.predict(task.space.encode(config)[None])[0])


def _standard(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values in standard deviations of the reference; constant columns become 0."""
    spread = reference.std(axis=0)
    return (values - reference.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def add_autoencoder(trained: Trained, runs: Runs, report: Report) -> None:
    """Targets are those of the cells; the other tasks are shown beside them."""
    task = trained.task.name
    found = runs.results.get(Key(trained.name, "autoencoder", 0), {})
    targets: dict[str, Target] = {"average": at_least(RECONSTRUCTION), "validity": at_least(VALIDITY)}
    names = {"average": "reconstruction", "most_frequent": "reconstruction_most_frequent", "validity": "prior_validity"}
    for name in ("average", "most_frequent", "validity", "uniqueness", "novelty", "unique_per_vector"):
        target = targets.get(name) if task == "enas" else None
        report.add(f"{task}_{names.get(name, name)}", found.get(name, NOT_RUN), target)


def add_regression(trained: Trained, runs: Runs, report: Report) -> None:
    """RMSE and r of every method on latents and raw encodings."""
    task = trained.task.name
    for key in sorted(runs.results):
        if key.function == trained.name and "rmse" in (record := runs.results[key]):
            report.add(f"{task}_{key.method}_rmse", record["rmse"])
            report.add(f"{task}_{key.method}_r", record["r"])


def add_search(trained: Trained, runs: Runs, report: Report) -> None:
    """Best value found, means over the seeds that all methods finished, and the latent method's lead with its error."""
    task = trained.task.name
    seeds = runs.seeds(trained.name, METHODS)
    report.add(f"{task}_search_seeds", len(seeds))
    final = {m: np.array([runs.get(trained.name, m, seed)["best"][-1] for seed in seeds]) for m in METHODS}
    for method, values in final.items():
        report.add(f"{task}_search_{method}", float(values.mean()) if seeds else np.nan)
    for rival in METHODS[:2]:
        lead = final["latent"] - final[rival]
        report.add(f"{task}_search_latent_minus_{rival}", float(lead.mean()) if seeds else np.nan)
        error = lead.std(ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else np.nan
        report.add(f"{task}_search_latent_minus_{rival}_error", float(error))


def add_speed(trained: Trained, runs: Runs, report: Report) -> None:
    """Seconds of both over the same batches, and their ratio."""
    found = runs.results.get(Key(trained.name, "speed", 0))
    if found is None:
        report.add("faster_than_loop", NOT_RUN, at_least(FASTER))
        return
    size = trained.settings.speed.batch_size
    report.add("timed_share_of_an_epoch", min(found["batches"] * size / len(trained.train), 1.0))
    report.add("batched_seconds", found["batched"])
    report.add("loop_seconds", found["loop"])
    report.add("faster_than_loop", found["loop"] / found["batched"], at_least(FASTER))


def depends(settings: DvaeSettings) -> Any:
    """Everything but the tasks, whose trainings have names of their own, and how many seeds are searched."""
    return settings.model_dump(mode="json", exclude={"tasks": True, "model": True, "search": {"seeds"}})


if __name__ == "__main__":
    sys.exit(resumable("search_dvae", SETTINGS, body, depends, VERSION))
