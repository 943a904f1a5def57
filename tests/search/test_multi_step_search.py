"""Gaussian-process methods as proposers: the contract, resuming, parallel and failed trials, awkward spaces."""

import json

import numpy as np
import pytest
import torch

from search.binoculars.proposer import BinocularsSearch
from search.driver import Search
from search.errors import BudgetError, HistoryError
from search.gp_search import GpSearch
from search.maximise import Effort
from search.multi_step.proposer import MultiStep, MultiStepSearch
from search.parameters import Float, Integer
from search.random_search import RandomSearch
from search.space import SearchSpace, config_key
from search.trial import Outcome, best
from tests.search.objectives import bowl, bowl_space, mixed_space

SMALL = Effort(restarts=2, candidates=32, steps=15, draws=32)


def multi_step(space, seed=0):
    return GpSearch(space, MultiStep("step", 3, SMALL), seed, initial=4)


def methods(space):
    return [multi_step(space), BinocularsSearch(space, initial=4), MultiStepSearch(space, kind="path", k=2, initial=4)]


@pytest.mark.parametrize("place", range(3))
def test_it_finds_a_better_bowl_than_random(place):
    found = best(Search(methods(bowl_space())[place], bowl, budget=14).run()).ne
    random = best(Search(RandomSearch(bowl_space()), bowl, budget=14).run()).ne
    assert found < random


def test_a_resumed_search_goes_on_with_the_same_proposals(tmp_path):
    whole = Search(multi_step(bowl_space()), bowl, budget=9).run()
    path = tmp_path / "state.json"
    for until in (6, 7, 9):
        again = Search(multi_step(bowl_space()), bowl, budget=9, state_file=path).run(until)
    assert again == whole
    assert json.loads(path.read_text())["proposer"]["decider"]["last"]["points"]


def test_the_last_tree_is_used():
    space = bowl_space()
    search = Search(multi_step(space), bowl, budget=9)
    history = search.run(7)
    warm, cold = multi_step(space), multi_step(space)
    warm.load_state_dict(search.proposer.state_dict())
    assert warm._observed(_belief(space, history), history) is not None
    assert cold._observed(_belief(space, history), history) is None


def _belief(space, history):
    from search.surrogate import fit

    points = torch.from_numpy(space.encode_all([trial.config for trial in history]))
    return fit(points, -torch.tensor([trial.ne for trial in history], dtype=torch.float64))


def test_a_short_search_leaves_half_of_it_to_the_model():
    space, decided = SearchSpace([Float(f"x{i}", 0, 1) for i in range(6)]), []

    class Centre:
        def decide(self, belief, left, k, seed, observed):
            decided.append(left)
            return torch.full((k, 6), 0.5, dtype=torch.float64)

        def state_dict(self):
            return {}

    Search(GpSearch(space, Centre()), lambda config, _: Outcome(config["x0"]), budget=8).run()
    assert decided == [4, 3, 2, 1], "twice the parameters would be 12"


@pytest.mark.parametrize("make", [multi_step, lambda space: BinocularsSearch(space, initial=4)])
def test_parallel_proposals_differ_and_are_valid(make):
    space = mixed_space()
    history = Search(RandomSearch(space), lambda config, _: Outcome(config["dropout"]), budget=6).run()
    configs = make(space).ask(history, 5, 3)
    assert len({config_key(config) for config in configs}) == 3
    for config in configs:
        space.validate(config)


def test_failed_trials_are_not_modelled_and_not_proposed_again():
    space = bowl_space()
    history = Search(RandomSearch(space, seed=1), bowl, budget=6).run()
    history.append(history[0].failed("NE is nan"))
    proposer = multi_step(space)
    configs = proposer.ask(history, 4, 1)
    assert config_key(configs[0]) not in {config_key(trial.config) for trial in history}
    nothing = [trial.failed("died") for trial in history]
    assert len(multi_step(space).ask(nothing, 3, 2)) == 2


def test_a_small_space_is_used_up_without_repeats():
    space = SearchSpace([Integer("a", 0, 2), Integer("b", 0, 2)])
    history = Search(multi_step(space), lambda config, _: Outcome(abs(config["a"] - 1.0) + config["b"]), budget=9).run()
    assert len({config_key(trial.config) for trial in history}) == 9


def test_rules_are_kept():
    space = SearchSpace(
        [Float("x", 0, 1), Float("y", 0, 1)],
        rules=[lambda config: "x + y above 1" if config["x"] + config["y"] > 1 else None],
    )
    history = Search(multi_step(space), lambda config, _: Outcome(-config["x"] - config["y"]), budget=10).run()
    assert all(trial.config["x"] + trial.config["y"] <= 1 for trial in history)
    assert best(history).ne < -0.85


def test_nothing_left_and_foreign_histories_are_named():
    history = Search(RandomSearch(mixed_space()), lambda config, _: Outcome(config["dropout"]), budget=3).run()
    for proposer in methods(bowl_space()):
        with pytest.raises(BudgetError, match="0 trials left"):
            proposer.ask([], 0, 1)
        with pytest.raises(HistoryError, match="another space"):
            proposer.ask(history, 3, 1)


def test_equal_seeds_propose_equally():
    space = bowl_space()
    history = Search(RandomSearch(space), bowl, budget=5).run()
    assert multi_step(space, 1).ask(history, 5, 2) == multi_step(space, 1).ask(history, 5, 2)
    assert multi_step(space, 1).ask(history, 5, 1) != multi_step(space, 2).ask(history, 5, 1)
    assert np.isfinite(best(history).ne)
