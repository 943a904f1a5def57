"""The D-VAE as a method on the VM space: it learns the space's graphs and resumes with the same proposals."""

import numpy as np
import pytest

from search.driver import Search
from search.dvae import proposer
from search.dvae.config import DvaeTraining
from search.dvae.proposer import DvaeSearch, DvaeSettings
from search.ens.proposer import Acceptable
from search.errors import SpaceError
from search.methods import make_proposer
from search.parameters import Float
from search.space import SearchSpace, config_key
from search.trial import Outcome, Trial
from search.vm_space import BODY, VmSpace
from tests.search.objectives import mixed_space
from tests.search.test_vm_space import BASE, INPUTS

SMALL = DvaeSettings(
    first=4, graphs=200, hidden=16, latent=8, candidates=16,
    training=DvaeTraining(epochs=2, batch_size=50, learning_rate=5e-3),
)  # fmt: skip


def objective(config, trial_id):
    """Lowest for dot blocks that read the input, at a weight of distillation of one half."""
    del trial_id
    body = config[BODY]
    dots = sum(kind.startswith("dot") for kind in body["kinds"])
    return Outcome(-dots - 0.2 * sum(0 in inputs for inputs in body["inputs"]) + (config["kd_weight"] - 0.5) ** 2)


def _done(space, trial_id):
    config = space.sample(np.random.default_rng(trial_id))
    return Trial(trial_id, config).finished(objective(config, trial_id))


@pytest.fixture(scope="module")
def space():
    return VmSpace(BASE, INPUTS)


@pytest.fixture
def trained(monkeypatch):
    """Trainings of a D-VAE in this test."""
    found = []

    class Counted(proposer.DvaeTrainer):
        def fit(self, progress=None, stop=None):
            found.append(len(self.graphs))
            return super().fit(progress, stop)

    monkeypatch.setattr(proposer, "DvaeTrainer", Counted)
    return found


def test_a_killed_search_goes_on_with_the_same_proposals_and_d_vae(space, tmp_path, trained):
    whole = Search(DvaeSearch(space, 1, SMALL), objective, budget=8, k=1).run()
    assert trained == [200]
    assert len({config_key(trial.config) for trial in whole}) == 8
    for until in (2, 5, 6, 8):
        search = Search(DvaeSearch(space, 1, SMALL), objective, budget=8, state_file=tmp_path / "state.json")
        history = search.run(until=until)
    assert history == whole
    assert trained == [200, 200], "what was saved is not trained again"


def test_the_d_vae_decodes_graphs_of_the_space(space):
    search = DvaeSearch(space, 0, SMALL)
    history = [_done(space, i) for i in range(6)]
    asked = search.ask(history, 10, 4)
    assert len({config_key(config) for config in asked}) == 4
    for config in asked:
        space.validate(config)
    assert DvaeSearch(space, 0, SMALL).ask(history, 10, 4) == asked


def test_a_short_search_has_first_trials_for_half_of_it(space, trained):
    DvaeSearch(space, 0, SMALL).ask([_done(space, 0)], 3, 1)
    assert trained == []
    DvaeSearch(space, 0, SMALL).ask([_done(space, i) for i in range(2)], 2, 1)
    assert trained == [200]


def test_it_is_a_method_of_a_search(space):
    for fitting in (space, mixed_space()):
        assert isinstance(make_proposer("dvae", fitting, 0, Acceptable(1.0)), DvaeSearch)
    with pytest.raises(SpaceError, match=r"one graph of blocks; got \[\]: use another method"):
        make_proposer("dvae", SearchSpace([Float("rate", 0.0, 1.0)]), 0, Acceptable(1.0))
