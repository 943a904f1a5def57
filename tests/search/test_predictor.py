"""Predictor-guided search: trend labels, rank loss, the policy, rounds that resume, the price of FLOPs."""

import numpy as np
import pytest
import torch

from search.driver import Search
from search.errors import HistoryError, SpaceError
from search.parameters import Categorical
from search.predictor.ensemble import EnsembleSettings, RankEnsemble, pairwise_loss
from search.predictor.labels import labels, trend_label
from search.predictor.policy import FactorisedPolicy, PolicySettings
from search.predictor.proposer import PredictorSearch, PredictorSettings
from search.random_search import RandomSearch
from search.space import SearchSpace, config_key
from search.trial import Outcome, Trial, best, value
from tests.search.objectives import Overtaking, mixed_space

SMALL = PredictorSettings(
    first=12, batch=4, ensemble=EnsembleSettings(members=3, steps=60), policy=PolicySettings(steps=150, batch=8)
)
OPTIMUM = (3, 0, 2, 4, 1, 2)


def table_space():
    return SearchSpace([Categorical(f"op{i}", (0, 1, 2, 3, 4)) for i in range(6)])


def distance(config, trial_id):
    """Its FLOPs grow where its NE falls."""
    del trial_id
    ne = float(sum(abs(config[f"op{i}"] - best) for i, best in enumerate(OPTIMUM)))
    return Outcome(ne, flops=20.0 - ne)


def test_trend_label():
    line = [0.9 - 0.01 * epoch for epoch in range(1, 7)]
    assert trend_label(line, 10) == pytest.approx(0.8)
    assert trend_label(line, 6) == line[-1]
    assert trend_label([0.8], 5) == 0.8
    assert trend_label([0.9, 0.7, 0.8, 0.81], 8) == 0.8, "a rising tail is not extrapolated"


def test_the_label_of_a_short_trial_is_its_trend_and_of_a_whole_one_its_ne():
    curve = (1.0, 0.9, 0.85, 0.8)
    short = Trial(0, {}).finished(Outcome(0.8, curve=curve, horizon=6))
    whole = Trial(1, {}).finished(Outcome(0.75, curve=curve[:3]))
    assert labels([short, whole]) == pytest.approx([0.7, 0.75]), "no whole curve is longer than what was seen"
    assert labels([whole]) == [0.75]
    assert labels([Trial(0, {}).finished(Outcome(0.8, horizon=6))]) == [0.8], "an objective without curves"


def test_whole_curves_tell_by_how_much_trends_are_too_low():
    bent = (1.0, 0.9, 0.8, 0.79, 0.78)
    short = Trial(0, {}).finished(Outcome(0.8, curve=bent[:3], horizon=5))
    whole = Trial(1, {}).finished(Outcome(0.78, curve=bent))
    assert labels([short]) == pytest.approx([0.6])
    assert labels([short, whole]) == pytest.approx([0.78, 0.78])


def shortened(**changes):
    return PredictorSettings(**{**SMALL.__dict__, "first_share": 0.5, "explore": 0.0, **changes})


def test_first_trials_are_stopped_and_their_trends_lead_the_predictor():
    history = Search(PredictorSearch(table_space(), 0, shortened()), Overtaking(), budget=24).run()
    trained = [(trial.horizon, len(trial.curve), trial.spent) for trial in history]
    assert trained == [(8, 4, 4.0)] * 12 + [(None, 8, 8.0)] * 12
    ends = [sum(trial.config.values()) for trial in history]
    assert [trial.ne for trial in history[:12]] == [30 - end for end in ends[:12]], "their own NE says the opposite"
    assert np.mean(ends[12:16]) < np.mean(ends[:12]) - 3


def test_an_objective_that_cannot_stop_trains_every_trial_whole():
    history = Search(PredictorSearch(table_space(), 0, shortened()), distance, budget=14).run()
    assert {(trial.share, trial.horizon) for trial in history} == {(1.0, None)}


def test_a_short_search_keeps_half_of_its_trials_for_the_predictor():
    assert [PredictorSearch(table_space(), 0, shortened()).share(trial, 8) for trial in (3, 4)] == [0.5, 1.0]
    history = Search(PredictorSearch(table_space(), 0, shortened()), Overtaking(), budget=8, k=2).run()
    assert [trial.share for trial in history] == [0.5] * 4 + [1.0] * 4


def test_what_a_short_trial_tried_may_be_tried_again_whole():
    space = SearchSpace([Categorical("op0", (0, 1))])
    history = [Trial(i, {"op0": i}).finished(Overtaking().short({"op0": i}, i, 0.5)) for i in range(2)]
    assert PredictorSearch(space, 0, shortened()).ask(history, 2, 1) == [{"op0": 0}]


def test_pairwise_loss():
    wanted = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    right = torch.stack([wanted[:, 0], torch.zeros(3)], dim=1)[None]
    assert pairwise_loss(right, wanted, 0.5) == 0
    assert pairwise_loss(-right, wanted, 0.5) == pytest.approx((1.5 + 2.5 + 1.5) / 3)


def test_ensemble_orders_unseen_configurations_on_both_heads():
    space, rng = table_space(), np.random.default_rng(0)
    configs = [space.sample(rng) for _ in range(260)]
    x = space.encode_all(configs)
    results = [distance(config, 0) for config in configs]
    targets = np.array([[outcome.ne, -outcome.ne] for outcome in results])
    ensemble = RankEnsemble(x[:160], targets[:160], seed=0, settings=EnsembleSettings(members=3, steps=80))
    scores = ensemble.predict(x[160:])
    assert scores.shape == (100, 2)
    assert np.corrcoef(scores[:, 0], targets[160:, 0])[0, 1] > 0.9
    assert np.corrcoef(scores[:, 1], targets[160:, 1])[0, 1] > 0.9


def test_policy_finds_the_best_decisions_and_never_draws_what_is_not_there():
    policy = FactorisedPolicy((5, 3, 2), PolicySettings(steps=400, entropy=0.0, learning_rate=0.05))
    target, rng = np.array([4, 1, 0]), np.random.default_rng(0)
    assert (policy.draw(500, rng).max(axis=0) == [4, 2, 1]).all()
    policy.train(lambda choices: (choices == target).sum(axis=1).astype(float), rng)
    assert (policy.probabilities.argmax(axis=1) == target).all()
    assert policy.probabilities.max(axis=1).min() > 0.8


def test_search_beats_random_and_proposes_nothing_twice():
    history = Search(PredictorSearch(table_space(), settings=SMALL), distance, budget=40).run()
    random = [Search(RandomSearch(table_space(), seed), distance, budget=40).run() for seed in range(5)]
    assert value(best(history)) < np.mean([value(best(trials)) for trials in random])
    assert len({config_key(trial.config) for trial in history}) == 40


@pytest.mark.parametrize(("settings", "objective"), [(SMALL, distance), (shortened(), Overtaking())])
def test_a_round_goes_on_after_a_kill(tmp_path, settings, objective):
    whole = Search(PredictorSearch(table_space(), 1, settings), objective, budget=24).run()
    state = tmp_path / "state.json"
    for until in (7, 13, 15, 24):
        search = Search(PredictorSearch(table_space(), 1, settings), objective, budget=24, state_file=state)
        history = search.run(until=until)
    assert history == whole


class Listed(PredictorSearch):
    """Likes one list of configurations, whatever it knows."""

    def __init__(self, liked, **settings):
        super().__init__(table_space(), settings=PredictorSettings(**{**SMALL.__dict__, **settings}))
        self.liked, self.rounds = liked, []

    def search_round(self, known, rng):
        self.rounds.append(len(known))
        return self.liked


@pytest.mark.parametrize(
    ("k", "budget", "rounds", "guided"),
    [(1, 32, [12, 16, 20, 24, 28], 15), (8, 32, [16, 24], 12), (5, 35, [15, 20, 25, 30], 16)],
)
def test_every_fit_knows_all_trials_before_it_whatever_runs_at_once(k, budget, rounds, guided):
    rng = np.random.default_rng(9)
    liked = [table_space().sample(rng) for _ in range(60)]
    proposer = Listed(liked, explore=0.25)
    history = Search(proposer, distance, budget=budget, k=k).run()
    assert proposer.rounds == rounds
    keys = {config_key(config) for config in liked}
    assert sum(config_key(trial.config) in keys for trial in history[rounds[0] :]) == guided


def test_flops_weight_moves_proposals_to_cheaper_configurations():
    def cheapest(weight):
        settings = PredictorSettings(**{**SMALL.__dict__, "flops_weight": weight, "explore": 0.0})
        history = Search(PredictorSearch(table_space(), 0, settings), distance, budget=24).run()
        return np.mean([trial.flops for trial in history[12:]])

    assert cheapest(0.9) < cheapest(0.0) - 1


def test_failed_trials_and_mixed_spaces():
    def half(config, trial_id):
        if trial_id % 2:
            raise ValueError("out of memory")
        return Outcome(config["rate"] + config["layers"], flops=1.0)

    history = Search(PredictorSearch(mixed_space(), settings=SMALL), half, budget=20).run()
    assert sum(trial.state == "failed" for trial in history) == 10


def test_rules_are_kept():
    space = SearchSpace(table_space().parameters, rules=[lambda c: "op0 is 3" if c["op0"] == 3 else None])
    history = Search(PredictorSearch(space, settings=SMALL), distance, budget=24).run()
    assert all(trial.config["op0"] != 3 for trial in history)


def test_errors():
    with pytest.raises(SpaceError, match=r"flops_weight: got 2.0; allowed: 0 to 1"):
        PredictorSearch(table_space(), settings=PredictorSettings(flops_weight=2.0))
    with pytest.raises(SpaceError, match=r"first_share: got 0.0; allowed: above 0, at most 1"):
        PredictorSearch(table_space(), settings=PredictorSettings(first_share=0.0))
    with pytest.raises(HistoryError, match="two finished trials at least; got 1"):
        RankEnsemble(np.zeros((1, 3)), np.zeros((1, 2)), seed=0)
