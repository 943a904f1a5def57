"""The loop: failed trials, limits, parallel trials, exact resuming after a kill, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from search.driver import Search
from search.errors import BudgetError, ProposalError, SearchError, StateError
from search.evolution import RegularizedEvolution
from search.proposer import HistoryProposer
from search.random_search import RandomSearch
from search.runners import runner
from search.space import config_key
from search.trial import Outcome, Trial, best, value
from tests.search.objectives import bowl, bowl_space, faulty, mixed_space

KILLED = """
import sys
from pathlib import Path
from search.driver import Search
from search.evolution import RegularizedEvolution
from tests.search.objectives import bowl_space, slow_bowl
proposer = RegularizedEvolution(bowl_space(), seed=3, population=5)
Search(proposer, slow_bowl, budget=40, state_file=Path(sys.argv[1])).run()
"""


def keys(history):
    return [config_key(trial.config) for trial in history]


def test_failing_hanging_dying_and_nan_trials_fail_and_the_search_goes_on():
    search = Search(RandomSearch(bowl_space()), faulty, budget=8, k=2, time_limit_s=3.0)
    history = search.run()
    assert [trial.state for trial in history] == ["done", *["failed"] * 4, *["done"] * 3]
    assert [trial.error for trial in history[1:5]] == [
        "ValueError: no such table",
        "NE is nan",
        "took longer than its limit of 3 s",
        "its process died, exit code 7",
    ]
    assert best(history) in history[5:] + history[:1]


def test_what_is_no_finite_outcome_is_a_failed_trial():
    given = [None, 0.5, Outcome(1.0, flops=float("nan")), Outcome(1.0, curve=(float("inf"), 1.0)), Outcome(1.0)]
    given += [Outcome(None), Outcome("0.5"), Outcome(1.0, flops=None)]
    history = Search(RandomSearch(bowl_space()), lambda config, trial_id: given[trial_id], budget=len(given)).run()
    assert [trial.error for trial in history] == [
        "returned None, no Outcome",
        "returned 0.5, no Outcome",
        "not finite: FLOPs nan, spent 1.0, curve []",
        "not finite: FLOPs 0.0, spent 1.0, curve [inf, 1.0]",
        None,
        *(f"returned what are no numbers: {outcome!r}" for outcome in given[5:]),
    ]


def test_numbers_of_other_libraries_are_kept_as_plain_ones(tmp_path):
    def objective(config, trial_id):
        return Outcome(np.float32(0.5), np.int64(3), (np.float64(1.0), np.float32(0.5)))

    state = tmp_path / "state.json"
    Search(RandomSearch(bowl_space()), objective, budget=1, state_file=state).run()
    (trial,) = Search(RandomSearch(bowl_space()), objective, budget=1, state_file=state).run()
    assert (trial.ne, trial.flops, trial.curve) == (0.5, 3.0, (1.0, 0.5))


def test_an_objective_that_ends_the_process_is_a_failed_trial():
    (trial,) = Search(RandomSearch(bowl_space()), lambda config, trial_id: sys.exit(3), budget=1).run()
    assert trial.error == "SystemExit: 3"


def test_a_limit_that_no_trial_can_keep():
    with pytest.raises(SearchError, match="time_limit_s: got 0; allowed: above 0"):
        Search(RandomSearch(bowl_space()), bowl, budget=1, time_limit_s=0).run()


def test_a_process_that_died_while_it_waited_is_replaced():
    with runner(bowl, 2, None) as processes:
        trials = [Trial(i, {"x": 0.0, "y": 0.0, "shift": 0}) for i in range(2)]
        assert [trial.state for trial in processes.run(trials[:1])] == ["done"]
        (worker,) = processes._idle
        worker.process.kill()
        worker.process.join()
        assert [trial.state for trial in processes.run(trials[1:])] == ["done"]


def test_parallel_trials_are_those_of_one_process():
    serial = Search(RandomSearch(bowl_space(), seed=1), bowl, budget=7, k=1).run()
    assert len(set(keys(serial))) == 7
    lines = []
    parallel = Search(RandomSearch(bowl_space(), seed=1), bowl, budget=7, k=3, progress=lines.append).run()
    assert [trial.id for trial in parallel] == list(range(7))
    assert len(lines) == 7
    again = Search(RandomSearch(bowl_space(), seed=1), bowl, budget=7, k=3).run()
    assert parallel == again


def test_killed_search_goes_on_with_the_same_proposals(tmp_path):
    whole = Search(RegularizedEvolution(bowl_space(), seed=3, population=5), bowl, budget=40).run()
    state, log = tmp_path / "state.json", tmp_path / "log"
    environment = {**os.environ, "BOWL_LOG": str(log), "PYTHONPATH": str(Path(__file__).parents[2])}
    for at_least in (5, 17):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(state)], env=environment)
        while not log.exists() or len(log.read_text().splitlines()) < at_least:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed_at = len(json.loads(state.read_text())["trials"])
    assert killed_at < 40
    subprocess.run([sys.executable, "-c", KILLED, str(state)], env=environment, check=True)
    search = Search(RegularizedEvolution(bowl_space(), seed=3, population=5), bowl, budget=40, state_file=state)
    assert search.history == whole
    evaluated = [int(line) for line in log.read_text().splitlines()]
    assert len(evaluated) <= 42, "trials that were finished are not evaluated again"


def test_two_processes_on_one_state_file_are_refused(tmp_path):
    state, log = tmp_path / "state.json", tmp_path / "log"
    environment = {**os.environ, "BOWL_LOG": str(log), "PYTHONPATH": str(Path(__file__).parents[2])}
    search = Search(RegularizedEvolution(bowl_space(), seed=3, population=5), bowl, budget=40, state_file=state)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(state)], env=environment)
    try:
        while not log.exists():
            time.sleep(0.01)
        with pytest.raises(StateError, match=rf"{state}: another process runs this search; wait for it"):
            search.run()
    finally:
        process.kill()
        process.wait()
    begun = [key for trial in json.loads(state.read_text())["trials"] if (key := config_key(trial["config"]))]
    history = search.run()
    assert len(begun) >= 1, "the killed process had a trial"
    assert keys(history)[: len(begun)] == begun, "it goes on from what the other left, not from what it read before"


def test_until_stops_and_goes_on(tmp_path):
    state = tmp_path / "state.json"

    def search():
        return Search(RandomSearch(bowl_space()), bowl, budget=6, state_file=state)

    assert len(search().run(until=2)) == 2
    assert len(search().run(until=4)) == 4
    assert search().run() == Search(RandomSearch(bowl_space()), bowl, budget=6).run()


def test_state_of_another_search_is_refused(tmp_path):
    state = tmp_path / "state.json"
    Search(RandomSearch(bowl_space()), bowl, budget=2, state_file=state).run()
    with pytest.raises(StateError, match=r"space is .* there and .* here"):
        Search(RandomSearch(mixed_space()), bowl, budget=2, state_file=state)
    with pytest.raises(StateError, match="method is RandomSearch there and RegularizedEvolution here"):
        Search(RegularizedEvolution(bowl_space()), bowl, budget=2, state_file=state)
    with pytest.raises(StateError, match="seed is 0 there and 1 here"):
        Search(RandomSearch(bowl_space(), 1), bowl, budget=2, state_file=state)
    with pytest.raises(StateError, match="budget is 2 there and 3 here"):
        Search(RandomSearch(bowl_space()), bowl, budget=3, state_file=state)
    state.write_text("{")
    with pytest.raises(StateError, match=r"no saved search .* delete the file"):
        Search(RandomSearch(bowl_space()), bowl, budget=2, state_file=state)


def test_no_budget():
    with pytest.raises(BudgetError, match="got a budget of 0 trials"):
        Search(RandomSearch(bowl_space()), bowl, budget=0)
    with pytest.raises(BudgetError, match="asked for k=2 configurations with 1 trials left"):
        RandomSearch(bowl_space()).ask([], budget_left=1, k=2)


def test_a_proposal_outside_its_space():
    class Wrong(HistoryProposer):
        def ask(self, history, budget_left, k):
            return [{"x": 2.0, "y": 0.0, "shift": 0}]

    with pytest.raises(ProposalError, match="Wrong proposed what its space does not hold: x: got 2"):
        Search(Wrong(bowl_space()), bowl, budget=2).run()


def test_no_proposal():
    class Empty(HistoryProposer):
        def ask(self, history, budget_left, k):
            return []

    with pytest.raises(ProposalError, match="Empty proposed 0 configurations; asked for 1"):
        Search(Empty(bowl_space()), bowl, budget=2).run()


def test_evolution_beats_random():
    def mean_best(make):
        found = [best(Search(make(seed), bowl, budget=60).run()) for seed in range(8)]
        return np.mean([value(trial) for trial in found])

    evolved = mean_best(lambda seed: RegularizedEvolution(bowl_space(), seed, population=10))
    assert evolved < 0.5 * mean_best(lambda seed: RandomSearch(bowl_space(), seed))


def test_random_search_of_a_finite_space_draws_each_once():
    from search.parameters import Categorical
    from search.space import SearchSpace

    space = SearchSpace([Categorical("a", tuple(range(4))), Categorical("b", (0, 1))])
    history = Search(RandomSearch(space), lambda config, trial: bowl({"x": 0, "y": 0, "shift": 0}, trial), budget=8)
    assert len(set(keys(history.run()))) == 8
