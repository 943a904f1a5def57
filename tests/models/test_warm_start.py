"""A warm start keeps what both models have, extends what grew and names what went."""

import pytest
import torch

from models.config import FeatureSpec, ReaderConfig, TrainConfig, VmConfig
from models.errors import FeatureMismatchError
from models.feed import FeatureFeed
from models.vm import VerticalModel
from models.vm_train import train_vm
from models.warm_start import copy_weights
from tests.models.vm_files import INPUTS, make_world

FOREVER = 2**60
TRAIN = TrainConfig(batch_size=64, epochs=1, device="cpu")
READERS = [ReaderConfig(key="item"), ReaderConfig(key="user", tokens="raw")]
EXTRA = FeatureSpec(name="tags", kind="categorical_list")


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    root = tmp_path_factory.mktemp("warm")
    old, new = make_world(users=8), make_world(seed=1, users=16, items=9)
    return [w.write(root / name) for w, name in ((old, "old"), (new, "new"))]


def fit(files, inputs=INPUTS, warm_start=None, epochs=1, **settings):
    config = VmConfig(**{"readers": READERS, "train": TRAIN, **settings})
    feed = FeatureFeed(files, inputs, config, known_at=FOREVER)
    return train_vm(config, inputs, feed, feed, seed=3, warm_start=warm_start)


@pytest.mark.parametrize("architecture", ["mlp", "deepfm", "dcn", "dlrm"])
def test_known_ids_and_features_keep_their_weights(windows, architecture):
    old = fit(windows[0], architecture=architecture).artifact
    inputs = INPUTS.model_copy(update={"features": [EXTRA, *INPUTS.features]})
    config = VmConfig(architecture=architecture, readers=[*READERS, ReaderConfig(key="user")], train=TRAIN)
    feed = FeatureFeed(windows[1], inputs, config, known_at=FOREVER)
    encoder, _ = feed.fit_encoder(old.encoder)
    new = VerticalModel(config, inputs, encoder)
    fresh = {name: value.clone() for name, value in new.state_dict().items()}
    copy_weights(old.model, new)
    for name in ("user", "item"):
        known = old.encoder.features.vocabularies[name].ids
        extended = encoder.features.vocabularies[name].ids
        assert len(extended) > len(known)
        assert extended[: len(known)].tolist() == known.tolist()
        start, rows = old.model.table.starts[name], old.model.table.tables[name]
        start_new = new.table.starts[name]
        kept = new.table.weight[start_new : start_new + rows]
        assert torch.equal(kept, old.model.table.weight[start : start + rows])
        added = slice(start_new + rows, start_new + len(extended) + 1)
        assert torch.equal(new.table.weight[added], fresh["table.weight"][added])
    for name, value in old.model.readers.state_dict().items():
        assert torch.equal(new.readers.state_dict()[name], value)
    assert torch.equal(new.bias, old.model.bias)
    assert torch.equal(new.readers["fm_user"].project.weight, fresh["readers.fm_user.project.weight"])


def test_the_old_model_lives_on_in_the_new_one(windows):
    """With the new feature's and reader's weights at zero, the new model scores as the old one does."""
    old = fit(windows[0]).artifact
    inputs = INPUTS.model_copy(update={"features": [EXTRA, *INPUTS.features]})
    config = VmConfig(readers=[ReaderConfig(key="user"), *READERS], train=TRAIN)
    feed = FeatureFeed(windows[0], inputs, config, known_at=FOREVER)
    encoder, _ = feed.fit_encoder(old.encoder)
    new = VerticalModel(config, inputs, encoder).eval()
    old_feed = FeatureFeed(windows[0], INPUTS, old.config, known_at=FOREVER)
    with torch.no_grad():
        for layer in (new.network.tower.layers[0], *new.queries.values()):
            layer.weight.zero_()
        copy_weights(old.model, new)
        expected = old.model(next(old_feed.batches(old.encoder, 1000)))
        torch.testing.assert_close(new(next(feed.batches(encoder, 1000))), expected, rtol=1e-5, atol=1e-6)


def test_training_goes_on_from_the_old_model(windows):
    old = fit(windows[0]).artifact
    still = TRAIN.model_copy(update={"learning_rate": 1e-12})
    warm = fit(windows[0], warm_start=old, train=still)
    fresh = fit(windows[0], train=still)
    after = fit(windows[0], warm_start=old)
    assert warm.metrics["ne"] < fresh.metrics["ne"] - 0.01
    assert after.metrics["ne"] < warm.metrics["ne"]


def test_what_is_removed_fails_by_name(windows):
    old = fit(windows[0]).artifact
    fewer = INPUTS.model_copy(update={"features": INPUTS.features[:-1]})
    with pytest.raises(FeatureMismatchError, match="price"):
        fit(windows[1], inputs=fewer, warm_start=old)
    with pytest.raises(FeatureMismatchError, match=r"readers.*raw_user"):
        fit(windows[1], warm_start=old, readers=READERS[:1])
    with pytest.raises(FeatureMismatchError, match=r"architecture mlp.*dcn"):
        fit(windows[1], warm_start=old, architecture="dcn")
    with pytest.raises(FeatureMismatchError, match=r"readers\.fm_item\.project\.weight: shape \(24, 19\).*\(8, 19\)"):
        fit(windows[1], warm_start=old, readers=[ReaderConfig(key="item", dim=8), READERS[1]])
