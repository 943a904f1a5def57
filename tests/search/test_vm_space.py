"""The VM space: every configuration is a VM that can be built and within the limit, costs are exact FLOPs."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.config import FeatureSpec, ReaderConfig, VmConfig
from models.errors import ModelConfigError
from models.feed import FeatureFeed
from models.flops import UntrainedFlops, flops_per_example
from models.graph_body import BODIES
from models.vm import VerticalModel
from search.driver import Search
from search.ens.proposer import Acceptable
from search.errors import ConfigurationError, SpaceError
from search.methods import make_proposer
from search.trial import Outcome
from search.vm_space import BODY, FlopsLimit, VmSpace
from tests.models.vm_files import INPUTS, make_world

BASE = VmConfig(readers=[ReaderConfig(key="item"), ReaderConfig(key="user", tokens="raw")], unseen_rate=0.1)
LISTS = INPUTS.model_copy(
    update={
        "features": [
            *INPUTS.features,
            FeatureSpec(name="tags", kind="categorical_list"),
            FeatureSpec(name="shape", kind="numeric_list"),
        ]
    }
)
FOREVER = 2**60


@pytest.fixture(scope="module")
def space():
    return VmSpace(BASE, INPUTS)


def test_random_configurations_are_vms_with_the_counted_flops(space, tmp_path):
    files, rng = make_world().write(tmp_path), np.random.default_rng(0)
    kinds, readers = set(), set()
    for _ in range(25):
        config = space.sample(rng)
        vm = space.to_vm(config)
        feed = FeatureFeed(files, INPUTS, vm, known_at=FOREVER)
        encoder, _ = feed.fit_encoder()
        model, batch = VerticalModel(vm, INPUTS, encoder).eval(), next(feed.batches(encoder, 20))
        fields = model.fields(batch)
        reads = model.read(batch, fields) if vm.readers else fields.reads
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            assert torch.isfinite(model.network(fields._replace(reads=reads))).all()
        assert counter.get_total_flops() == len(batch) * space.cost(config)
        kinds |= {block.kind for block in vm.graph}
        readers.add(len(vm.readers))
        assert 2 <= len(vm.graph) <= 5
    assert kinds == set(BODIES)
    assert {1, 2} <= readers <= {0, 1, 2}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Counts FLOPs on the rows and with the encoder of the base VM, and what feeds any other."""
    files = make_world().write(tmp_path_factory.mktemp("rows"))
    feed = FeatureFeed(files, LISTS, BASE, known_at=FOREVER)
    encoder, _ = feed.fit_encoder()
    return UntrainedFlops(LISTS, encoder, next(feed.batches(encoder, 120))), files


def test_flops_before_a_training_are_those_after_it(untrained):
    flops, files = untrained
    rng = np.random.default_rng(3)
    for turn in range(25):
        space = VmSpace(BASE.model_copy(update={"within_impression": turn % 2 == 1}), LISTS)
        vm = space.to_vm(space.sample(rng))
        before = torch.random.get_rng_state()
        counted = flops(vm)
        assert torch.equal(torch.random.get_rng_state(), before), "nobody else's random numbers"
        feed = FeatureFeed(files, LISTS, vm, known_at=FOREVER)
        encoder, _ = feed.fit_encoder()
        batch = next(feed.batches(encoder, 120))
        assert counted == flops_per_example(VerticalModel(vm, LISTS, encoder), batch), "to the last digit"
    with pytest.raises(ModelConfigError, match="got architecture mlp, fusion concat; counted without a training"):
        flops(BASE)


@pytest.mark.parametrize("name", ["random", "ens", "evolution", "predictor", "binoculars"])
def test_no_method_trains_what_the_limit_forbids(untrained, name):
    flops, _ = untrained
    limit = FlopsLimit(flops, 30_000)
    space = VmSpace(BASE, LISTS).within(limit)
    free, rng = VmSpace(BASE, LISTS), np.random.default_rng(0)
    assert sum(space.allows(free.sample(rng)) for _ in range(200)) < 160, "it forbids some"

    def objective(config, trial_id):
        del trial_id
        # The dearer the better: without the limit every method would go there.
        return Outcome(1.0 / flops(free.to_vm(config)), flops(free.to_vm(config)))

    history = Search(make_proposer(name, space, 0, Acceptable(1.0, limit.most)), objective, budget=8).run()
    assert [trial.state for trial in history] == ["done"] * 8
    assert max(trial.flops for trial in history) <= limit.most


def test_a_limit_below_every_vm_is_an_error_that_says_so(untrained):
    space = VmSpace(BASE, LISTS).within(FlopsLimit(untrained[0], 10.0))
    config = VmSpace(BASE, LISTS).sample(np.random.default_rng(0))
    said = r"no valid configuration in 1000 random ones.*the VM needs \d+ FLOPs an example; allowed: at most 10"
    with pytest.raises(SpaceError, match=said):
        space.sample(np.random.default_rng(0))
    with pytest.raises(SpaceError, match=said):
        space.mutate(config, np.random.default_rng(0))
    for name in ("random", "ens"):
        with pytest.raises(SpaceError, match=said):
            make_proposer(name, space, 0, Acceptable(1.0)).ask([], 4, 1)
    with pytest.raises(ConfigurationError, match="allowed: at most 10; got"):
        space.to_vm(config)


def test_a_space_of_another_limit_has_another_fingerprint():
    space = VmSpace(BASE, LISTS)
    most = [10.0, 10.0, 11.0]
    found = [space.within(FlopsLimit(lambda vm: 0.0, limit)).fingerprint for limit in most]
    assert found[0] == found[1] != found[2], "two counters of the same FLOPs are one"
    assert space.fingerprint not in found


def test_what_is_not_searched_stays_as_it_was(space):
    config = space.sample(np.random.default_rng(1))
    vm = space.to_vm(config)
    assert (vm.unseen_rate, vm.max_vocabulary) == (BASE.unseen_rate, BASE.max_vocabulary)
    assert vm.train.learning_rate == config["learning_rate"]
    assert vm.train.model_copy(update={"learning_rate": BASE.train.learning_rate}) == BASE.train
    assert vm.kd_weight == config["kd_weight"]


def test_a_vm_without_histories():
    space = VmSpace(VmConfig(), INPUTS)
    config = space.sample(np.random.default_rng(0))
    assert "reader_dim" not in config
    assert space.to_vm(config).readers == []


def test_errors(space):
    config = space.sample(np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match=r"body: got 'conv-32'; allowed: block 1 one of"):
        space.to_vm({**config, BODY: {"kinds": ["conv-32", "mlp-16"], "inputs": [[0], [1]]}})
    with pytest.raises(SpaceError, match=r"vm\.fusion: got additive"):
        VmSpace(VmConfig(fusion="additive"), INPUTS)
