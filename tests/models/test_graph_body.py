"""Graphs of blocks: formulas, widths, exact FLOPs, and errors that name the block."""

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from models.config import GraphBlock, ReaderConfig, TrainConfig, VmConfig
from models.errors import FeatureMismatchError, ModelConfigError
from models.feed import FeatureFeed
from models.flops import flops_per_example
from models.graph_body import GraphNetwork, graph_flops
from models.interactions import FieldLayout, VmFields
from models.vm import VerticalModel, field_layout
from models.vm_train import train_vm
from models.warm_start import copy_weights
from tests.models.vm_files import INPUTS, make_world

KINDS = ["mlp", "cross", "dot", "gating", "sum", "self_attention"]
LAYOUT = FieldLayout(["a", "b", "c"], 4, [("n", 2)], [("reader r", 5)])
READERS = [ReaderConfig(key="item"), ReaderConfig(key="user", tokens="raw")]
FOREVER = 2**60


def block(kind, units, *inputs):
    return GraphBlock(kind=kind, units=units, inputs=list(inputs))


def network(*blocks, dropout=0.0):
    torch.manual_seed(0)
    return GraphNetwork(VmConfig(architecture="graph", graph=list(blocks), dropout=dropout), LAYOUT).eval()


def some_fields(rows=6):
    torch.manual_seed(1)
    return VmFields(torch.randn(rows, 3, 4), None, torch.randn(rows, 2), torch.randn(rows, 5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", [(0,), (1,), (0, 1), (1, 2), (0, 1, 2)])
def test_flops_are_those_of_the_matrix_products(kind, inputs):
    blocks = [block("mlp", 8, 0), block("cross", 6, 0), block(kind, 7, *inputs)]
    graph, fields = network(*blocks), some_fields(rows=10)
    counter = FlopCounterMode(display=False)
    with counter:
        assert graph(fields).shape == (10,)
    assert counter.get_total_flops() == 10 * graph_flops(blocks, LAYOUT)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_block_reads_each_of_its_inputs(kind):
    graph = network(block("mlp", 8, 0), block(kind, 7, 0, 1))
    fields = some_fields()
    before = graph(fields)
    for changed in (
        fields._replace(embedded=fields.embedded + 1),
        fields._replace(numbers=fields.numbers + 1),
        fields._replace(reads=fields.reads + 1),
    ):
        assert not torch.allclose(graph(changed), before)
    graph.blocks[0].layer.bias.add_(1.0)
    assert not torch.allclose(graph(fields), before)


@torch.no_grad()
def test_formulas():
    fields = some_fields()
    x = fields.flat()
    cross, gating = network(block("cross", 5, 0)), network(block("gating", 5, 0))
    p = cross.blocks[0].project(x)
    torch.testing.assert_close(cross(fields), cross.out(p * cross.blocks[0].layer(p) + p).squeeze(1))
    gated = gating.blocks[0]
    torch.testing.assert_close(gating(fields), gating.out(gated.value(x) * gated.gate(x).sigmoid()).squeeze(1))
    total = network(block("mlp", 5, 0), block("mlp", 5, 0), block("sum", 5, 1, 2))
    parts = [total.blocks[i].layer(x).relu() for i in range(2)]
    torch.testing.assert_close(total(fields), total.out(parts[0] + parts[1]).squeeze(1))
    dot = network(block("dot", 5, 0))
    extra = dot.blocks[0].split[0](torch.cat([fields.numbers, fields.reads], dim=1)).view(6, 4, 4)
    vectors = torch.cat([fields.embedded, extra], dim=1)
    pairs = torch.stack([vectors[:, i] @ vectors[:, j].T for i in range(7) for j in range(i + 1, 7)])
    products = pairs.diagonal(dim1=1, dim2=2).T
    torch.testing.assert_close(dot(fields), dot.out(dot.blocks[0].out(products).relu()).squeeze(1))


def test_the_logit_reads_every_block_that_no_other_reads():
    graph = network(block("mlp", 8, 0), block("mlp", 6, 0), block("mlp", 3, 1))
    assert graph.outputs == [1, 2]
    assert graph.out.in_features == 9


def test_dropout_acts_while_training_only():
    graph = network(block("mlp", 64, 0), dropout=0.5)
    fields = some_fields()
    assert torch.equal(graph(fields), graph(fields))
    graph.train()
    assert not torch.equal(graph(fields), graph(fields))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "graph"}, "vm.graph: got 0 blocks; allowed with architecture graph: at least one"),
        ({"architecture": "mlp", "graph": [block("mlp", 4, 0)]}, "got 1 blocks; allowed with architecture mlp: none"),
        ({"architecture": "graph", "graph": [block("mlp", 4, 1)]}, r"block 1 reads \[1\]; allowed: some of 0 .. 0"),
        (
            {"architecture": "graph", "graph": [block("mlp", 4, 0), block("sum", 4, 1, 0)]},
            r"block 2 reads \[1, 0\]; allowed: some of 0 .. 1, rising",
        ),
    ],
)
def test_impossible_graphs_are_named(settings, message):
    with pytest.raises(ValidationError, match=message):
        VmConfig(**settings)


def test_one_vector_cannot_be_combined():
    config = VmConfig(architecture="graph", graph=[block("dot", 4, 0)])
    with pytest.raises(ModelConfigError, match="combines vectors reads 1; give it another input"):
        GraphNetwork(config, FieldLayout(["a"], 4, [], []))


def test_a_graph_of_every_kind_learns_and_is_counted(tmp_path):
    graph = [block(kind, 8, 0, *([place] if place else [])) for place, kind in enumerate(KINDS)]
    train = TrainConfig(batch_size=64, epochs=2, device="cpu", learning_rate=5e-3)
    config = VmConfig(architecture="graph", graph=graph, readers=READERS, train=train)
    feed = FeatureFeed(make_world().write(tmp_path), INPUTS, config, known_at=FOREVER)
    result = train_vm(config, INPUTS, feed, feed, seed=0)
    assert result.curve[-1].train_loss < result.curve[0].train_loss
    model = result.artifact.model
    batch = next(feed.batches(result.artifact.encoder, 50))
    bare = config.model_copy(update={"readers": []})
    without = VerticalModel(bare, INPUTS, result.artifact.encoder)
    assert flops_per_example(without, batch) == graph_flops(graph, field_layout(result.artifact.encoder, [], [], 8))
    assert flops_per_example(model, batch) > flops_per_example(without, batch)
    other = config.model_copy(update={"graph": graph[:-1]})
    with pytest.raises(FeatureMismatchError, match="graph: the model to start from has other blocks"):
        copy_weights(model, VerticalModel(other, INPUTS, result.artifact.encoder))
