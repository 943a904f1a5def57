"""Methods kept to a number of FLOPs: what they are told, what stays as measured, and where they look."""

import numpy as np
import pytest

from search.bounded import WithinFlops, charged
from search.driver import Search
from search.ens.proposer import Acceptable
from search.errors import StateError
from search.evolution import RegularizedEvolution
from search.methods import METHODS, make_proposer
from search.parameters import Categorical
from search.predictor.proposer import PredictorSearch, PredictorSettings
from search.random_search import RandomSearch
from search.space import SearchSpace
from search.trial import Outcome, Trial
from tests.search.objectives import mixed_space

SPACE = SearchSpace([Categorical(f"op{i}", (0, 1, 2, 3, 4)) for i in range(6)])


def dear(config, trial_id):
    """The better, the dearer."""
    del trial_id
    return Outcome(30.0 - sum(config.values()), flops=float(sum(config.values())))


def test_trials_above_the_bound_are_worse_than_the_worst_and_the_worse_the_dearer():
    given = [(0.9, 10.0), (0.5, 12.0), (0.6, 10.0), (0.4, 90.0)]
    trials = [Trial(i, {}).finished(Outcome(ne, flops, (ne,), horizon=4)) for i, (ne, flops) in enumerate(given)]
    history = [*trials, Trial(4, {}).failed("no memory"), Trial(5, {})]
    told = charged(history, 10.0)
    assert [trial.ne for trial in told[:4]] == pytest.approx([0.9, 1.0, 0.6, 1.4])
    assert (told[0], told[2], *told[4:]) == (history[0], history[2], *history[4:])
    assert (told[1].curve, told[1].horizon) == ((), None), "its curve would say otherwise"
    assert charged([], 10.0) == []
    assert charged([Trial(0, {}).finished(Outcome(0.5, 20.0))], 10.0)[0].ne == 1.0


def test_evolution_within_a_bound_stays_there():
    def dearest(method):
        history = Search(method, dear, budget=60).run()
        assert [trial.ne for trial in history] == [dear(trial.config, 0).ne for trial in history], "as measured"
        return np.mean([trial.flops for trial in history[40:]])

    assert dearest(RegularizedEvolution(SPACE, 0, 10)) > 15
    assert dearest(WithinFlops(RegularizedEvolution(SPACE, 0, 10), 12.0)) < 13


def test_a_method_within_a_bound_is_the_method(tmp_path):
    state = tmp_path / "state.json"
    bounded = WithinFlops(RandomSearch(SPACE, 3), 12.0)
    Search(bounded, dear, budget=2, state_file=state).run()
    assert Search(RandomSearch(SPACE, 3), dear, budget=2, state_file=state).history
    with pytest.raises(StateError, match="seed is 3 there and 4 here"):
        Search(WithinFlops(RandomSearch(SPACE, 4), 12.0), dear, budget=2, state_file=state)
    short = PredictorSearch(SPACE, 0, PredictorSettings(first_share=0.5))
    assert [WithinFlops(method, 1.0).share(0, 100) for method in (short, RandomSearch(SPACE))] == [0.5, 1.0]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_that_seek_one_vm_are_bounded_by_the_bar(name):
    made = make_proposer(name, mixed_space(), 0, Acceptable(1.0, flops=7.0))
    assert getattr(made, "flops", None) == (None if name in ("random", "ens") else 7.0)
