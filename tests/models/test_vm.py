"""Vertical models: architectures against their formulas, fusion, and independence of the batch."""

import pytest
import torch

from models.config import FeatureSpec, ReaderConfig, VmConfig
from models.errors import ModelConfigError
from models.feed import FeatureFeed
from models.interactions import VmFields
from models.vm import VerticalModel
from tests.models.vm_files import INPUTS, make_world

FOREVER = 2**60
READERS = [ReaderConfig(key="item", kinds=["mean", "decayed", "attention"]), ReaderConfig(key="user", tokens="raw")]
LISTS = [FeatureSpec(name="tags", kind="categorical_list"), FeatureSpec(name="shape", kind="numeric_list")]
WITH_LISTS = INPUTS.model_copy(update={"features": [*INPUTS.features, *LISTS]})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_world().write(tmp_path_factory.mktemp("vm"))


def build(files, inputs=WITH_LISTS, **settings):
    config = VmConfig(**settings)
    feed = FeatureFeed(files, inputs, config, known_at=FOREVER)
    encoder, _ = feed.fit_encoder()
    torch.manual_seed(0)
    model = VerticalModel(config, inputs, encoder).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model, next(feed.batches(encoder, 10_000))


@pytest.mark.parametrize("architecture", ["mlp", "deepfm", "dcn", "dlrm"])
@pytest.mark.parametrize("fusion", ["concat", "additive"])
@torch.no_grad()
def test_a_score_does_not_depend_on_the_rest_of_its_batch(files, architecture, fusion):
    model, batch = build(files, architecture=architecture, fusion=fusion, readers=READERS)
    whole = model(batch)
    assert whole.shape == (len(batch),)
    assert whole.std() > 0
    for size in (1, 7):
        parts = [model(batch.take(torch.arange(s, min(s + size, len(batch))))) for s in range(0, len(batch), size)]
        torch.testing.assert_close(torch.cat(parts).sigmoid(), whole.sigmoid(), rtol=0, atol=1e-6)


@torch.no_grad()
def test_additive_fusion_leaves_the_rest_alone_where_histories_are_empty(files):
    model, batch = build(files, fusion="additive", readers=READERS)
    empty = torch.ones(len(batch), dtype=torch.bool)
    for history in batch.histories.values():
        empty &= history.index == 0
    assert 0 < empty.sum() < len(batch)
    base = model.network(model.fields(batch)) + model.bias
    difference = model(batch) - base
    assert (difference[empty] == 0).all()
    assert (difference[~empty] != 0).any()


def fields_of(model, batch):
    fields = model.fields(batch)
    return fields, fields.numbers.double()


@torch.no_grad()
def test_deepfm_equals_pairwise_products(files):
    model, batch = build(files, architecture="deepfm")
    fields, numbers = fields_of(model, batch)
    network = model.network
    deep = network.out(network.tower(fields.flat())).squeeze(1)
    for row in range(5):
        vectors = [v.double() for v in fields.embedded[row]]
        vectors += [numbers[row, j] * network.number_factors.weight[:, j].double() for j in range(numbers.shape[1])]
        pairs = sum(float(vectors[i] @ vectors[j]) for i in range(len(vectors)) for j in range(i))
        linear = float(fields.first_order[row].sum() + network.number_weights.weight[0] @ fields.numbers[row])
        assert network(fields)[row].item() == pytest.approx(float(deep[row]) + pairs + linear, abs=1e-5)


@torch.no_grad()
def test_dcn_and_dlrm_equal_their_formulas(files):
    model, batch = build(files, architecture="dcn")
    fields = model.fields(batch)
    start = x = fields.flat()
    for layer in model.network.cross:
        x = torch.stack([start[r] * (layer.weight @ x[r] + layer.bias) + x[r] for r in range(len(x))])
    expected = torch.cat([x, model.network.tower(start)], dim=1) @ model.network.out.weight[0]
    torch.testing.assert_close(model.network(fields), expected, rtol=1e-4, atol=1e-5)
    model, batch = build(files, architecture="dlrm")
    fields, network = model.fields(batch), model.network
    vectors = torch.cat([fields.embedded, network.bottom(fields.numbers)[:, None]], dim=1)
    count = vectors.shape[1]
    dots = [(vectors[:, i] * vectors[:, j]).sum(dim=1) for i in range(count) for j in range(i + 1, count)]
    expected = network.out(network.top(torch.cat([vectors.flatten(1), torch.stack(dots, dim=1)], dim=1))).squeeze(1)
    torch.testing.assert_close(network(fields), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_lists_are_means_and_counters_are_numbers(files):
    model, batch = build(files, counters=True)
    fields = model.fields(batch)
    assert isinstance(fields, VmFields)
    assert fields.numbers.shape[1] == 2 + 2
    table = model.table.weight[model.table.starts["tags"] :]
    for row in range(10):
        ids = batch.lists["tags"][row][batch.masks["tags"][row]]
        expected = table[ids].mean(dim=0) if len(ids) else torch.zeros(model.dim)
        torch.testing.assert_close(fields.embedded[row, -1], expected)


def test_the_bias_starts_at_the_base_rate(files):
    model, _ = build(files)
    model.start_at(0.2)
    assert model.bias.sigmoid().item() == pytest.approx(0.2)


def test_two_readers_of_one_kind_and_key_are_refused(files):
    with pytest.raises(ModelConfigError, match=r"fm_item.*each key and kind of tokens once"):
        build(files, readers=[ReaderConfig(key="item"), ReaderConfig(key="item", kinds=["mean"])])
