"""The VM space: every configuration is a VM that can be built, its cost is the body's exact FLOPs."""

import numpy as np
import pytest
import torch

from models.config import ReaderConfig, VmConfig
from models.feed import FeatureFeed
from models.graph_body import BODIES
from models.vm import VerticalModel
from search.errors import ConfigurationError, SpaceError
from search.vm_space import BODY, VmSpace
from tests.models.vm_files import INPUTS, make_world

BASE = VmConfig(readers=[ReaderConfig(key="item"), ReaderConfig(key="user", tokens="raw")], unseen_rate=0.1)
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
        model = VerticalModel(vm, INPUTS, encoder).eval()
        with torch.no_grad():
            assert torch.isfinite(model(next(feed.batches(encoder, 20)))).all()
        assert model.network.flops == space.cost(config)
        kinds |= {block.kind for block in vm.graph}
        readers.add(len(vm.readers))
        assert 2 <= len(vm.graph) <= 5
    assert kinds == set(BODIES)
    assert {1, 2} <= readers <= {0, 1, 2}


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
