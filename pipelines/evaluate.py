"""Step ``evaluate``: figures of a vertical's models on later mature partitions, appended to table evaluations."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from feature_store.clocks import HOUR_MS
from feature_store.schemas import EVALUATIONS
from feature_store.spaces import SpaceRecord
from models.metrics import Scores, normalized_entropy
from pipelines.batch_fm import batch_fm_scores
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.maturity import require_mature
from pipelines.measure import ALL_ROWS, BATCH_FM_ARM, FM_ARM, Comparison, Figure, activity_slices
from pipelines.plots import comparison_plots
from pipelines.progress import timed
from pipelines.registry import CHALLENGER, CHAMPION, TRAINED_UNTIL, RegisteredModel
from pipelines.report_data import COVERAGE, PART_SLICE, VerticalReport, calibration_figures
from pipelines.run_plots import log_plots
from pipelines.scoring import fm_scores, labelled_rows, score_parts
from pipelines.train_vm import TrainedVm, load_trained
from pipelines.value_figures import BOTH_ARM, CODE_ARM, age_slices, code_scores, lost_figures
from pipelines.world_bounds import bound_scores

ALL_KNOWN = int(np.iinfo(np.int64).max)
"""Mature partitions have all of their labels: whatever label a row has counts."""


@dataclass(frozen=True)
class Evaluated:
    """Where figures belong: the vertical, partitions, and the run and version of each arm."""

    vertical: str
    parts: list[str]
    space_id: str
    runs: Mapping[tuple[str, int], str]
    versions: Mapping[tuple[str, int], str]


def compare_arms(
    context: RunContext, vertical: str, trained: list[TrainedVm], windows: list[list[str]]
) -> list[Figure]:
    """Score all trained arms of a vertical on the mature partitions of the test window, and record every figure.

    The plots of the comparison become artifacts of every arm's run.

    Args:
        context: the project.
        vertical: whose arms.
        trained: one VM per arm and seed; every seed has its own space.
        windows: the VM's training partitions and the test partitions.

    Raises:
        StepError: no test partition is mature.
    """
    train_parts, test_parts = windows
    parts = list(require_mature(context, vertical, test_parts))
    own = [vm for vm in trained if vm.vertical == vertical]
    spaces = {vm.seed: context.spaces.get(vm.space_id) for vm in own}
    with timed(context.progress, f"evaluate: {vertical} on {len(parts)} partitions"):
        arms = _arm_scores(context, vertical, own, spaces, parts)
        if batch := batch_fm_scores(context, vertical, spaces, parts, arms[FM_ARM]):
            arms[BATCH_FM_ARM] = batch
        slices = _slices(context, vertical, spaces[own[0].seed], train_parts, parts)
        ages: dict[str, np.ndarray] = {}
        if BOTH_ARM in arms:
            arms[CODE_ARM] = [
                code_scores(context, vertical, spaces[seed], (train_parts, parts), like)
                for seed, like in zip(sorted(spaces), arms[FM_ARM], strict=True)
            ]
            ages = age_slices(context, vertical, spaces[own[0].seed], parts, _keys_read(context))
        figures = list(Comparison(arms, slices | ages, context.config.gate.bootstrap).figures())
        figures += lost_figures(arms, ages)
        figures += _curves(context, arms)
        runs = {(str(vm.arm), vm.seed): vm.run_id for vm in own}
        versions = {(str(vm.arm), vm.seed): vm.version for vm in own if vm.version is not None}
        cuts = slices | ages | _part_slices(context, arms[FM_ARM][0])
        record(context, Evaluated(vertical, parts, own[0].space_id, runs, versions), figures, arms, cuts)
        log_plots(context, runs.values(), comparison_plots(VerticalReport(vertical, figures)))
    return figures


def evaluate(context: RunContext, vertical: str, parts: list[str], version: str | None = None) -> list[Figure]:
    """Score the vertical's champion and a challenger on the mature ones of ``parts`` that neither trained on.

    Their figures are recorded.

    Args:
        context: the project.
        vertical: whose models.
        parts: partitions; those up to the end of either's training are left out.
        version: the challenger; the one that the alias names when absent, which another training may move meanwhile.

    Raises:
        StepError: nothing is registered, a model trained up to the last of the partitions, or none is mature.
    """
    name = context.vm_name(vertical)
    registry = context.registry
    challenger = registry.by_version(name, version) if version else registry.by_alias(name, CHALLENGER)
    found = {CHAMPION: registry.by_alias(name, CHAMPION), CHALLENGER: challenger}
    models = {alias: model for alias, model in found.items() if model is not None}
    if not models:
        raise StepError(f"{name}: nothing is registered; run `loopfm train-vm` first")
    mature = list(require_mature(context, vertical, parts))
    for alias, model in models.items():
        until = model.tags[TRAINED_UNTIL]
        if mature[-1] <= until:
            raise StepError(
                f"{name} version {model.version} ({alias}) trained until {until}: evaluate after it, got {mature[-1]}"
            )
        mature = [part for part in mature if part > until]
    scores = {alias: [registered_scores(context, vertical, model, mature)] for alias, model in models.items()}
    figures = list(Comparison(scores, {}, context.config.gate.bootstrap).figures())
    first = next(iter(models.values()))
    runs = {(alias, 0): model.run_id for alias, model in models.items()}
    versions = {(alias, 0): model.version for alias, model in models.items()}
    record(context, Evaluated(vertical, mature, first.tags["loopfm.space"], runs, versions), figures, scores)
    return figures


def registered_scores(context: RunContext, vertical: str, model: RegisteredModel, parts: list[str]) -> Scores:
    """Scores of a registered version on partitions of its own space."""
    space = context.spaces.get(model.tags["loopfm.space"])
    return score_parts(context, vertical, load_trained(context, model.run_id), space, parts, ALL_KNOWN)


def _arm_scores(
    context: RunContext, vertical: str, trained: list[TrainedVm], spaces: dict[int, SpaceRecord], parts: list[str]
) -> dict[str, list[Scores]]:
    arms: dict[str, list[Scores]] = {}
    for vm in sorted(trained, key=lambda vm: vm.seed):
        scores = score_parts(context, vertical, load_trained(context, vm.run_id), spaces[vm.seed], parts, ALL_KNOWN)
        arms.setdefault(vm.arm, []).append(scores)
    first = next(iter(arms.values()))
    seeds = sorted(spaces)
    arms[FM_ARM] = [
        fm_scores(context, vertical, spaces[seed], parts, like) for seed, like in zip(seeds, first, strict=False)
    ]
    # A bound is no model: it holds for the rows, and so for every seed.
    bounds = bound_scores(context, vertical, first[0])
    return arms | {arm: scores * len(first) for arm, scores in bounds.items()}


def _keys_read(context: RunContext) -> list[str]:
    """History keys of the LoopFM arm."""
    return list(dict.fromkeys(key for reader in context.config.vm.loopfm_readers for key in reader.keys))


def _slices(
    context: RunContext, vertical: str, space: SpaceRecord, train_parts: list[str], parts: list[str]
) -> dict[str, np.ndarray]:
    columns = ["example_id", "user", "item"]
    test = labelled_rows(context, vertical, space, parts, columns)
    train = labelled_rows(context, vertical, space, train_parts, columns)
    ids = test["example_id"].to_numpy()
    slices: dict[str, np.ndarray] = {}
    for entity in ("user", "item"):
        slices |= activity_slices(entity, test[entity].to_numpy(), ids, train[entity].to_numpy())
    return slices


def _part_slices(context: RunContext, scores: Scores) -> dict[str, np.ndarray]:
    return {name: scores.example_id[rows] for name, rows in _by_part(context, scores)}


def _by_part(context: RunContext, scores: Scores) -> Iterator[tuple[str, np.ndarray]]:
    """The slice of each partition, in order, and which rows are its own."""
    clock = context.dataset.clock
    starts = clock.floor(scores.event_ts)
    for start in np.unique(starts):
        yield f"{PART_SLICE}{clock.part_of(int(start))}", starts == start


def _curves(context: RunContext, arms: Mapping[str, list[Scores]]) -> Iterable[Figure]:
    """Of the first seed: NE and coverage by partition, and the calibration curve."""
    for arm, scores in arms.items():
        yield from calibration_figures(arm, scores[0])
        for name, own in _by_part(context, scores[0]):
            rows = scores[0].take(own)
            yield Figure(arm, name, "ne", normalized_entropy(rows.label, rows.p, rows.weight), len(rows))
            for key, has in rows.has_history.items():
                yield Figure(arm, name, f"{COVERAGE}{key}", float(has.mean()), len(rows))


def record(
    context: RunContext,
    evaluated: Evaluated,
    figures: list[Figure],
    arms: Mapping[str, list[Scores]],
    slices: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Append figures to table evaluations; undefined ones are left out.

    ``slices``, name -> example ids, tell the coverage of their figures, which that of all rows would not.
    """
    coverage = _coverage(arms, slices or {})
    common = {
        "vertical": evaluated.vertical,
        "model_name": context.vm_name(evaluated.vertical),
        "space_id": evaluated.space_id,
        "first_part": evaluated.parts[0],
        "last_part": evaluated.parts[-1],
        "staleness_hours": context.dataset.history_clock.mean_age_ms / HOUR_MS,
        "computed_at": int(time.time() * 1000),
    }
    rows = []
    for figure in figures:
        if math.isnan(figure.value):
            continue
        of = (figure.arm, figure.seed or 0)
        own = {
            "run_id": evaluated.runs.get(of, ""),
            "model_version": evaluated.versions.get(of, ""),
            "coverage": coverage.get((figure.arm, figure.slice), math.nan),
        }
        rows.append({**common, **own, **vars(figure)})
    context.store.append_arrow("evaluations", pa.Table.from_pylist(rows, schema=EVALUATIONS))


def _coverage(arms: Mapping[str, list[Scores]], slices: Mapping[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Arm, slice -> share of the examples that have a history of at least one key that the arm reads."""
    found = {}
    for arm, (scores, *_) in arms.items():
        if not scores.has_history:
            continue
        has = np.logical_or.reduce(list(scores.has_history.values()))
        found[arm, ALL_ROWS] = float(has.mean())
        # Sorted once for all slices: an hourly test window has hundreds.
        covered = np.sort(scores.example_id[has])
        for name, members in slices.items():
            hits = np.searchsorted(covered, members, "right") - np.searchsorted(covered, members)
            found[arm, name] = float(hits.mean())
    return found
