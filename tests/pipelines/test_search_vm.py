"""A search of VMs on the loop's tables: runs below one parent, pinned versions, resuming, the winner and its gate."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest

from pipelines.cli import main
from pipelines.errors import StepError
from pipelines.promote import promote
from pipelines.registry import CHALLENGER, PARENT_TAG
from pipelines.search_vm import SearchPlan, begin, search_vm, state_file
from search import methods
from search.dvae.config import DvaeTraining
from search.dvae.proposer import DvaeSearch, DvaeSettings
from search.errors import BudgetError, SpaceError
from search.predictor import proposer
from search.predictor.labels import labels, trend_label
from search.predictor.policy import PolicySettings
from search.predictor.proposer import PredictorSettings
from tests.pipelines import loop_world

VERTICAL = "feed"


@pytest.fixture(scope="module")
def loop(loop, tmp_path_factory):
    """A copy of the finished run: a winner that is promoted stays out of the others' way."""
    root = tmp_path_factory.mktemp("searched") / "home"
    shutil.copytree(loop.root, root)
    return replace(loop, root=root, context=loop_world.context(root))


def run(loop, plan, context=None):
    context = context or loop.again()
    return context, search_vm(context, VERTICAL, context.space(), *_parts(context), plan)


def _parts(context):
    windows = loop_world.windows(context)
    return windows.vm_train, windows.vm_validation


def children(context, parent):
    query = f"tags.`{PARENT_TAG}` = '{parent}'"
    return context.registry.client.search_runs([context.registry.experiment_id], query)


def test_search_stops_goes_on_and_registers_the_winner(loop):
    plan = SearchPlan(trials=4, method="random")
    context, begun = run(loop, SearchPlan(trials=4, method="random", stop_after=2))
    assert (len(begun.history), begun.winner, begun.version) == (2, None, None)
    assert context.registry.client.get_run(begun.run_id).info.status == "RUNNING"
    assert state_file(context, begun.run_id).exists()
    context, result = run(loop, plan)
    assert result.run_id == begun.run_id
    assert result.history[:2] == begun.history
    assert [trial.state for trial in result.history] == ["done"] * 4
    assert context.registry.client.get_run(result.run_id).info.status == "FINISHED"
    runs = children(context, result.run_id)
    assert len(runs) == 5, "four trials and the recipe, each trained once"
    parent_tags = context.registry.run_tags(result.run_id)
    for child in runs:
        assert child.data.tags["loopfm.version.features"] == parent_tags["loopfm.version.features"]
        assert child.data.metrics["search_flops"] > 0
    assert max(trial.flops for trial in result.history) <= result.hand_set.flops
    assert result.winner.ne == min(trial.ne for trial in result.history)
    challenger = context.registry.by_alias(context.vm_name(VERTICAL), CHALLENGER)
    assert challenger.version == result.version
    assert promote(context, VERTICAL, result.version, approve=True).verdict in ("passed", "hold")
    again = run(loop, plan)[1]
    assert again == result
    assert len(children(context, result.run_id)) == 5


@pytest.mark.slow
def test_a_trial_in_a_worker_process_gives_the_same_result(loop):
    serial = run(loop, SearchPlan(trials=1, method="random", seed=1))[1]
    limited = run(loop, SearchPlan(trials=1, method="random", seed=1, time_limit_s=300))[1]
    assert limited.run_id != serial.run_id
    (ours,), (theirs,) = serial.history, limited.history
    assert (theirs.state, theirs.config, theirs.flops) == ("done", ours.config, ours.flops)
    assert theirs.ne == pytest.approx(ours.ne, abs=1e-4), "threads of another process may round otherwise"


def test_the_predictor_learns_from_first_trials_that_are_stopped_half_way(loop, monkeypatch):
    context, seen = loop.again(), []
    base = context.config.vm.base
    longer = base.train.model_copy(update={"epochs": 4, "patience": 4})
    vm = context.config.vm.model_copy(update={"base": base.model_copy(update={"train": longer})})
    context.config = context.config.model_copy(update={"vm": vm})

    def spied(trials):
        seen.append(labels(trials))
        return seen[-1]

    monkeypatch.setattr(proposer, "labels", spied)
    quick = partial(PredictorSettings, policy=PolicySettings(steps=20))
    monkeypatch.setattr(methods, "PredictorSettings", quick)
    context, result = run(loop, SearchPlan(trials=4, method="predictor"), context)
    assert [(trial.horizon, len(trial.curve)) for trial in result.history] == [(4, 2), (4, 2), (None, 4), (None, 4)]
    short, _, whole, _ = result.history
    assert short.spent == whole.spent / 2
    assert seen[0] == pytest.approx([trend_label(trial.curve, 4) for trial in result.history[:2]])
    training = begin(
        context, VERTICAL, context.space(), *_parts(context), SearchPlan(trials=4, method="predictor")
    )  # fmt: skip
    _, ended = training.train(training.vm_space.to_vm(short.config), "to its end")
    assert ended.curve[:2] == pytest.approx(short.curve, abs=1e-6), "the beginning of the same training"
    assert ended.ne <= short.ne
    winner = context.registry.client.get_run(result.run_id).data.params["winner"]
    assert len(context.registry.curve(winner, "epoch_validation_ne")) == 4, "a stopped winner is trained to its end"


def test_the_d_vae_searches_vms(loop, monkeypatch):
    training = DvaeTraining(epochs=1, batch_size=50)
    small = DvaeSettings(first=2, graphs=200, hidden=16, latent=8, candidates=20, training=training)
    monkeypatch.setitem(methods.METHODS, "dvae", lambda space, seed, bar: DvaeSearch(space, seed, small))
    context, begun = run(loop, SearchPlan(trials=4, method="dvae", stop_after=3))
    saved = json.loads(state_file(context, begun.run_id).read_text())["proposer"]
    assert set(saved) == {"weights", "mean", "std"}
    _, result = run(loop, SearchPlan(trials=4, method="dvae"))
    assert [trial.state for trial in result.history] == ["done"] * 4
    assert result.history[:3] == begun.history
    assert json.loads(state_file(context, begun.run_id).read_text())["proposer"] == saved


def test_refusals(loop, capsys):
    with pytest.raises(BudgetError, match="got a budget of 0 trials, 1 at once; allowed: at least 1 of each"):
        run(loop, SearchPlan(trials=0))
    with pytest.raises(BudgetError, match="got a budget of 5 trials, 0 at once"):
        run(loop, SearchPlan(trials=5, k=0))
    with pytest.raises(SpaceError, match="method 'grid': there is none of that name; there are"):
        run(loop, SearchPlan(trials=1, method="grid"))
    context = loop.again()
    windows = loop_world.windows(context)
    with pytest.raises(StepError, match="validation must lie after training"):
        search_vm(
            context, VERTICAL, context.space(), windows.vm_validation, windows.vm_train, SearchPlan(trials=1)
        )  # fmt: skip
    assert main(["search", "nowhere.yaml", "--vertical", VERTICAL, "--trials", "1"]) == 1
    assert "nowhere.yaml" in capsys.readouterr().err
