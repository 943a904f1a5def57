"""Step ``search``: look for a better VM of a vertical; its winner is registered and meets the gate as any other VM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from feature_store.commits import contents
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.digest import digest
from pipelines.errors import StepError
from pipelines.registry import IDEMPOTENCY_TAG
from pipelines.search_objective import CONTENTS_TAG, TrialTraining
from pipelines.train_vm import VERSION_TAG, register_challenger, run_tags
from pipelines.vm_rows import PinnedRows, vm_inputs, vm_pins
from search.driver import Search
from search.ens.proposer import Acceptable
from search.errors import BudgetError
from search.methods import check_method, make_proposer
from search.trial import Outcome, Trial, best
from search.vm_space import FlopsLimit

STEP_VERSION = 3
KIND = {"loopfm.kind": "search"}
HAND_SET = "hand-set"


@dataclass(frozen=True)
class SearchPlan:
    """What to search with: ``method`` (search/methods.py), ``trials`` of the whole search, ``k`` of them at once.

    ``time_limit_s`` of one trial; None: no limit. ``stop_after``: end this call after so many trials of the search.
    """

    trials: int
    method: str = "predictor"
    k: int = 1
    seed: int = 0
    time_limit_s: float | None = None
    stop_after: int | None = None


@dataclass(frozen=True)
class SearchResult:
    """Where a search stands.

    ``hand_set``: the recipe trained on the same rows, by ``hand_set_run``. ``winner``: the trial of the lowest NE; none
    needs more FLOPs than the recipe, since the space holds no such VM. ``version``: the winner's, registered. Both are
    None while the search is unfinished.
    """

    run_id: str
    history: list[Trial]
    hand_set: Outcome
    hand_set_run: str
    winner: Trial | None
    version: str | None


def search_vm(
    context: RunContext,
    vertical: str,
    space: SpaceRecord,
    train_parts: list[str],
    validation_parts: list[str],
    plan: SearchPlan,
    hand_set_run: str | None = None,
) -> SearchResult:
    """Train trials on ``train_parts``, compare them on ``validation_parts``, register the winner as challenger.

    Trials are MLflow runs below one parent run and read the Delta versions that it pinned; none is of a VM that needs
    more FLOPs than the recipe. A search that was cut off goes on where it was, on the rows it began with; a finished
    one is looked up, unless its windows were written anew.

    Args:
        context: the project.
        vertical: whose VM.
        space: whose features and histories it reads.
        train_parts: closed partitions.
        validation_parts: later ones.
        plan: of the search.
        hand_set_run: a run of another search that trained the recipe on the same rows with the same seed; trained when
            absent.

    Raises:
        StepError: windows not forward in time, no trial has a result, or ``hand_set_run`` is another training.
        BudgetError: no trials, or none at once.
        SpaceError: unknown method, a recipe that cannot be searched, or one cheaper than nearly every other VM.
    """
    training = begin(context, vertical, space, train_parts, validation_parts, plan)
    return _run(context, training, plan, hand_set_run)


def begin(
    context: RunContext,
    vertical: str,
    space: SpaceRecord,
    train_parts: list[str],
    validation_parts: list[str],
    plan: SearchPlan,
) -> TrialTraining:
    """Open a search's parent run, or find the one it has: how its trials are trained. Raises as ``search_vm``."""
    if max(train_parts) >= min(validation_parts):
        raise StepError(f"validation must lie after training: got {max(train_parts)} then {min(validation_parts)}")
    if plan.trials < 1 or plan.k < 1:
        raise BudgetError(f"got a budget of {plan.trials} trials, {plan.k} at once; allowed: at least 1 of each")
    check_method(plan.method)
    windows = (train_parts, validation_parts)
    made_from = (context.config.vm, vm_inputs(context, vertical, space), windows)
    chosen = (plan.method, plan.trials, plan.k, plan.seed, plan.time_limit_s)
    idempotency = digest("search", STEP_VERSION, vertical, *chosen, context.store.identity("features"), *made_from)
    pinned, held = _pinned(context, space, idempotency, train_parts + validation_parts)
    finished = context.registry.runs_with({IDEMPOTENCY_TAG: idempotency, CONTENTS_TAG: held})
    tags = run_tags(context, vertical, context.config.vm.scheduled_arm, plan.seed, pinned, windows)
    name = f"search {vertical} {plan.method} seed {plan.seed}"
    opened = tags | KIND | {CONTENTS_TAG: held}
    parent = str(finished[0].info.run_id) if finished else context.registry.open_run(name, idempotency, opened)
    return TrialTraining(
        config=context.config,
        origin=context.origin,
        root=context.root,
        run_id=context.run_id,
        vertical=vertical,
        space_id=space.space_id,
        versions={table: int(version) for table, version in pinned.versions.items()},
        contents=held,
        windows=windows,
        seed=plan.seed,
        parent=parent,
        tracking_uri=context.tracking_uri,
    )


def state_file(context: RunContext, parent: str) -> Path:
    """Where a search's state lies while it runs."""
    return context.scratch.parent / "search" / f"{parent}.json"


def _pinned(context: RunContext, space: SpaceRecord, idempotency: str, parts: list[str]) -> tuple[PinnedRows, str]:
    """The rows that a search reads, and a digest of what they hold.

    One that was cut off goes on with those that it pinned, whatever was written since: its trials must compare. Any
    other reads those of now.
    """
    begun = context.registry.unfinished_run(idempotency)
    if begun is None:
        pins = vm_pins(context, space, parts)
        return PinnedRows(space, pins), digest(contents(pins))
    tags = begun.data.tags
    versions = {name.removeprefix(VERSION_TAG): int(tags[name]) for name in tags if name.startswith(VERSION_TAG)}
    return PinnedRows(space, versions), tags[CONTENTS_TAG]


def _run(context: RunContext, training: TrialTraining, plan: SearchPlan, hand_set_run: str | None) -> SearchResult:
    if hand_set_run is None:
        hand_set_run, hand_set = training.train(training.hand_set, HAND_SET)
    else:
        hand_set = training.trained(training.hand_set, hand_set_run)
    context.progress(f"search: the recipe as it is set: NE {hand_set.ne:.5f}, {hand_set.flops:.0f} FLOPs")
    space = training.vm_space.within(FlopsLimit(training.untrained_flops(hand_set_run), hand_set.flops))
    search = Search(
        make_proposer(plan.method, space, plan.seed, Acceptable(hand_set.ne, hand_set.flops)),
        training,
        budget=plan.trials,
        state_file=state_file(context, training.parent),
        k=plan.k,
        time_limit_s=plan.time_limit_s,
        progress=lambda line: context.progress(f"search: {line}"),
    )
    history = search.run(plan.stop_after)
    context.registry.fail_children(training.parent)
    if len(history) < plan.trials:
        return SearchResult(training.parent, history, hand_set, hand_set_run, None, None)
    winner = best(history)
    if winner is None:
        raise StepError(f"search: none of {plan.trials} trials has a result; the first failed: {history[0].error}")
    version = _register(context, training, winner)
    context.registry.close_run(training.parent)
    return SearchResult(training.parent, history, hand_set, hand_set_run, winner, version)


def _register(context: RunContext, training: TrialTraining, winner: Trial) -> str:
    """The winner as challenger; one that was a short trial is trained to its end first."""
    run_id, outcome = training.train(training.vm_space.to_vm(winner.config), f"trial {winner.id}")
    context.registry.log(training.parent, {"winner": run_id}, {"winner_ne": outcome.ne, "winner_flops": outcome.flops})
    space = context.space(training.space_id)
    return register_challenger(context, training.vertical, space, run_id, training.windows[1])
