"""Searches on rows written by hand: what is looked up and what goes on, what FLOPs forbid, what searches share."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feature_store.commits import Pin
from feature_store.spaces import SpaceRecord
from feature_store.tables import TableStore
from models.config import VmConfig
from models.feed import FeatureFeed
from pipelines import search_objective, search_vm
from pipelines.config import TRACKING_SETTING
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.registry import PARENT_TAG
from pipelines.search_objective import TrialTraining
from pipelines.search_vm import SearchPlan
from search.trial import best
from tests.models.vm_files import INPUTS, make_world
from tests.pipelines import loop_world

TRAIN, VALIDATION = ["2026-01-03", "2026-01-04"], ["2026-01-05"]
SPACE = SpaceRecord(
    space_id=INPUTS.space_id, inputs_id="in", fm_train_cutoff=0, training_lag_ms=0, heads=INPUTS.heads, dim=4, bits=4,
    captures=["mlp.0"], model_path="", model_digest="", run_id="fm", opened_at=0,
)  # fmt: skip
FOREVER = 2**60
TABLES = ("features", "histories", "raw_histories")


class Rows:
    """The tables' versions, and feeds of a tiny world in their place."""

    def __init__(self, folder: Path) -> None:
        world = make_world()
        self.files = world.write(folder / "train"), world.write(folder / "validation", world.parts[-2:])
        self.version, self.content, self.fed = 5, 3, 0

    def pins(self, *of: object) -> dict[str, Pin]:
        """See ``vm_pins``."""
        return {table: Pin(self.version, (), self.content) for table in TABLES}

    def feeds(self, context: object, vertical: str, config: VmConfig, *of: object) -> tuple[FeatureFeed, FeatureFeed]:
        """See ``feeds``."""
        self.fed += 1
        train, validation = (FeatureFeed(files, INPUTS, config, known_at=FOREVER) for files in self.files)
        return train, validation


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    made = Rows(tmp_path)
    monkeypatch.delenv(TRACKING_SETTING, raising=False)
    monkeypatch.setattr(RunContext, "space", lambda self, space_id=None: SPACE)
    monkeypatch.setattr(TableStore, "identity", lambda self, table: "made once")
    monkeypatch.setattr(search_vm, "vm_pins", made.pins)
    monkeypatch.setattr(search_objective, "feeds", made.feeds)
    for module in (search_vm, search_objective):
        monkeypatch.setattr(module, "vm_inputs", lambda *of: INPUTS)
    return made


@pytest.fixture
def context(rows: Rows, tmp_path: Path) -> RunContext:
    return loop_world.context(tmp_path / "home")


def begin(context: RunContext, **plan: Any) -> TrialTraining:
    return search_vm.begin(context, "feed", SPACE, TRAIN, VALIDATION, SearchPlan(trials=2, method="random", **plan))


def test_a_finished_search_is_looked_up_unless_its_rows_were_written_anew(context: RunContext, rows: Rows) -> None:
    first = begin(context)
    assert set(first.versions.values()) == {5}
    rows.version, rows.content = 9, 9
    going_on = begin(context)
    assert (going_on.parent, going_on.versions) == (first.parent, first.versions), "its trials must compare"
    context.registry.close_run(first.parent)
    anew = begin(context)
    assert anew.parent != first.parent
    assert set(anew.versions.values()) == {9}
    context.registry.close_run(anew.parent)
    rows.version = 14
    found = begin(context)
    assert found.parent == anew.parent, "only other partitions were written"
    assert set(found.versions.values()) == {14}
    rows.content = 3
    assert begin(context).parent == first.parent


def test_a_trial_in_another_process_logs_where_its_parent_is(
    context: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.tracking_uri = f"sqlite:///{tmp_path}/own.db"
    training = begin(context)
    assert training.context.registry.run_tags(training.parent)["loopfm.kind"] == "search"
    monkeypatch.setenv(TRACKING_SETTING, f"sqlite:///{tmp_path}/other.db")
    there = pickle.loads(pickle.dumps(training))
    assert there.context.registry.tracking_uri == context.tracking_uri


def searched(context: RunContext, method: str, hand_set_run: str | None = None) -> search_vm.SearchResult:
    plan = SearchPlan(trials=2, method=method)
    return search_vm.search_vm(context, "feed", SPACE, TRAIN, VALIDATION, plan, hand_set_run)


def test_no_trial_needs_more_flops_than_the_recipe_and_searches_share_its_training(
    context: RunContext, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    assembled = []
    assemble = FeatureFeed._assemble
    monkeypatch.setattr(FeatureFeed, "_assemble", lambda feed, *of: assembled.append(feed) or assemble(feed, *of))
    first = searched(context, "random")
    # Three trainings, each of two windows; once more the validation window, to count FLOPs before any training.
    assert (rows.fed, len(assembled)) == (4, 7)
    training = begin(context)
    counted = training.untrained_flops(first.hand_set_run)
    for trial in first.history:
        assert trial.flops == counted(training.vm_space.to_vm(trial.config)) <= first.hand_set.flops
    assert first.winner == best(first.history)
    second = searched(context, "evolution", first.hand_set_run)
    assert (second.hand_set, second.hand_set_run) == (first.hand_set, first.hand_set_run)
    children = [
        context.registry.client.search_runs([context.registry.experiment_id], f"tags.`{PARENT_TAG}` = '{of.run_id}'")
        for of in (first, second)
    ]
    assert [len(runs) for runs in children] == [3, 2], "the recipe was trained once"
    assert searched(context, "evolution", first.hand_set_run) == second


def test_another_training_is_not_taken_for_the_recipes(context: RunContext, rows: Rows) -> None:
    training = begin(context)
    run_id, outcome = training.train(training.hand_set, "hand-set")
    assert training.trained(training.hand_set, run_id) == outcome
    moved = replace(training, versions={table: 6 for table in TABLES})
    assert moved.trained(training.hand_set, run_id) == outcome, "the same rows in another version"
    other = training.hand_set.model_copy(update={"dropout": 0.4})
    for differing, vm, said in (
        (replace(training, seed=7), training.hand_set, r"differs in \['loopfm.seed'\]"),
        (replace(training, contents="other"), training.hand_set, r"differs in \['loopfm.contents'\]"),
        (training, other, r"differs in \['loopfm.vm'\]; leave hand_set_run out"),
    ):
        with pytest.raises(StepError, match=said):
            differing.trained(vm, run_id)
    context.registry.client.set_terminated(run_id, "FAILED")
    with pytest.raises(StepError, match=r"\(FAILED\) is not this training"):
        training.trained(training.hand_set, run_id)
