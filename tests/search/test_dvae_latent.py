"""Bayesian optimisation in the latent space as a proposer."""

import numpy as np
import pytest
import torch

from search.dvae.codec import GraphCodec
from search.dvae.config import DvaeConfig, DvaeTraining
from search.dvae.dags import DagBatch
from search.dvae.latent import LatentBo, LatentScale
from search.dvae.train import DvaeTrainer
from search.errors import BudgetError, SpaceError
from search.graphs import Dag
from search.parameters import Categorical, Float
from search.random_search import RandomSearch
from search.space import SearchSpace, config_key
from search.trial import Outcome, Trial, best

BODY = Dag("body", ("a", "b", "c"), 2, 4)
CODEC = GraphCodec(BODY)
SPACE = SearchSpace([Float("rate", 0.0, 1.0), BODY, Categorical("size", (1, 2, 4))])


def objective(config):
    """Lowest for graphs of four b's that read the input alone, at rate 0.3 and size 4."""
    body = config["body"]
    reads = sum(inputs == [0] for inputs in body["inputs"])
    return -0.25 * body["kinds"].count("b") - 0.2 * reads + (config["rate"] - 0.3) ** 2 - 0.1 * config["size"]


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    graphs = DagBatch.of([CODEC.to_dag({"body": BODY.sample(rng)}) for _ in range(400)], CODEC.max_vertices)
    config = DvaeConfig(types=CODEC.types, max_vertices=CODEC.max_vertices, hidden=40, latent=12)
    model = DvaeTrainer(config, DvaeTraining(epochs=20, batch_size=40, learning_rate=5e-3), graphs).fit()
    return model, LatentScale.of(model.means(graphs))


def proposer(trained, seed=0, **settings):
    return LatentBo(SPACE, CODEC, *trained, seed=seed, **{"initial": 8, "candidates": 48, **settings})


def run(method, budget, k=4):
    history = []
    while len(history) < budget:
        for config in method.ask(history, budget - len(history), min(k, budget - len(history))):
            trial = Trial(len(history), config)
            history.append(trial.finished(Outcome(objective(config))))
    return history


def test_it_beats_random_search(trained):
    ours = [best(run(proposer(trained, seed), 24)).ne for seed in range(2)]
    theirs = [best(run(RandomSearch(SPACE, seed), 24)).ne for seed in range(2)]
    assert np.mean(ours) < np.mean(theirs) - 0.1


def test_proposals_are_valid_new_different_and_reproducible(trained):
    history = run(RandomSearch(SPACE, 0), 10)
    first, again = (proposer(trained).ask(history, 20, 5) for _ in range(2))
    assert first == again
    keys = {config_key(config) for config in first}
    assert len(keys) == 5
    assert not keys & {config_key(trial.config) for trial in history}
    for config in first:
        SPACE.validate(config)
    assert proposer(trained, seed=1).ask(history, 20, 5) != first


def test_running_trials_are_not_proposed_again(trained):
    history = run(RandomSearch(SPACE, 0), 10)
    first = proposer(trained).ask(history, 20, 1)[0]
    running = Trial(10, first)
    failed = Trial(11, SPACE.sample(np.random.default_rng(5))).failed("no memory")
    second = proposer(trained).ask([*history, running, failed], 19, 1)[0]
    assert config_key(second) != config_key(first)


def test_equal_results_are_no_obstacle(trained):
    history = [trial.finished(Outcome(1.0)) for trial in run(RandomSearch(SPACE, 0), 9)]
    assert len(proposer(trained).ask(history, 5, 2)) == 2


def test_inputs_are_latents_then_the_other_parameters(trained):
    config = SPACE.sample(np.random.default_rng(0))
    numbers = proposer(trained).inputs([config])[0]
    assert len(numbers) == 12 + 1 + 3
    assert numbers[12] == pytest.approx(config["rate"])
    changed = proposer(trained).inputs([{**config, "rate": 0.25}])[0]
    assert torch.equal(changed[:12], numbers[:12])
    assert changed[12] == 0.25


def test_scaling_is_undone():
    scale = LatentScale.of(torch.randn(100, 4) * 3 + 1)
    z = torch.randn(5, 4)
    torch.testing.assert_close(scale.from_unit(scale.to_unit(z)), z)
    assert torch.allclose(scale.to_unit(scale.mean), torch.full((4,), 0.5))


def test_a_model_of_other_graphs_is_refused(trained):
    larger = Dag("body", ("a", "b", "c"), 2, 5)
    with pytest.raises(SpaceError, match="knows 5 types and 6 vertices, the space's graphs have 5 and 7"):
        LatentBo(SearchSpace([larger]), GraphCodec(larger), *trained)
    with pytest.raises(SpaceError, match=r"no parameters \['body'\]"):
        LatentBo(SearchSpace([Float("rate", 0.0, 1.0)]), CODEC, *trained)


def test_nothing_left_is_an_error(trained):
    with pytest.raises(BudgetError):
        proposer(trained).ask([], 0, 1)
