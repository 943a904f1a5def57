"""Active search as a proposer: more acceptable configurations than random search, batches, failures, small pools."""

import pytest

from search.driver import Search
from search.ens.errors import PoolError
from search.ens.proposer import Acceptable, ActiveSearch
from search.errors import BudgetError, HistoryError
from search.parameters import Integer
from search.random_search import RandomSearch
from search.space import SearchSpace, config_key
from search.trial import Outcome
from tests.search.objectives import bowl, bowl_space, mixed_space

ACCEPTABLE = Acceptable(ne=0.25)


def found(history):
    return sum(map(ACCEPTABLE, history))


@pytest.mark.parametrize("k", [1, 5])
def test_it_collects_more_than_random_search(k):
    history = Search(ActiveSearch(bowl_space(), ACCEPTABLE, pool=400), bowl, budget=60, k=k).run()
    random = Search(RandomSearch(bowl_space()), bowl, budget=60).run()
    assert found(history) > 2 * found(random)
    assert len({config_key(trial.config) for trial in history}) == 60


def test_acceptable_is_done_and_within_both_limits():
    trial = Search(RandomSearch(bowl_space()), bowl, budget=1).run()[0]
    assert Acceptable(trial.ne)(trial)
    assert not Acceptable(trial.ne - 1e-6)(trial)
    assert not Acceptable(trial.ne, flops=9.0)(trial)
    assert not Acceptable(10.0)(trial.failed("died"))


def test_failed_trials_are_negatives_and_stay_out():
    space = bowl_space()
    proposer = ActiveSearch(space, Acceptable(10.0), pool=100)
    history = Search(RandomSearch(space, seed=9), bowl, budget=8).run()
    near = proposer.ask(history, 5, 1)
    failed = [trial.failed("died") if place < 7 else trial for place, trial in enumerate(history)]
    assert proposer.ask(failed, 5, 1) != near
    assert config_key(near[0]) not in {config_key(trial.config) for trial in history}


def test_a_resumed_search_proposes_the_same(tmp_path):
    whole = Search(ActiveSearch(bowl_space(), ACCEPTABLE, seed=2, pool=100), bowl, budget=20, k=2).run()
    for until in (7, 20):
        proposer = ActiveSearch(bowl_space(), ACCEPTABLE, seed=2, pool=100)
        resumed = Search(proposer, bowl, budget=20, k=2, state_file=tmp_path / "s.json").run(until)
    assert len(resumed) == 20
    assert [trial.config for trial in resumed[:6]] == [trial.config for trial in whole[:6]]


def test_what_cannot_be_searched_is_named():
    small = SearchSpace([Integer("a", 0, 3)])
    with pytest.raises(PoolError, match="4 different"):
        ActiveSearch(small, ACCEPTABLE, neighbours=4)
    proposer = ActiveSearch(small, ACCEPTABLE, neighbours=2)
    history = Search(proposer, lambda config, _: Outcome(1.0), budget=4).run()
    with pytest.raises(PoolError, match="0 configurations"):
        proposer.ask(history, 1, 1)
    with pytest.raises(BudgetError, match="0 trials left"):
        proposer.ask([], 0, 1)
    foreign = Search(RandomSearch(mixed_space()), lambda config, _: Outcome(1.0), budget=1).run()
    with pytest.raises(HistoryError, match="another space"):
        proposer.ask(foreign, 1, 1)
