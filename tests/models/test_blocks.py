import pytest
import torch

from models.attention import DotTargetAttention, masked_mean
from models.blocks import InteractionStack
from models.config import CrossBlock, DotBlock, MlpBlock, SelfAttentionBlock
from models.errors import ModelConfigError

X, FIELDS = torch.randn(5, 20), torch.randn(5, 3, 4)

BLOCKS = {
    "cross": CrossBlock(layers=2),
    "low_rank": CrossBlock(layers=1, rank=3),
    "dot": DotBlock(),
    "attention": SelfAttentionBlock(heads=2, layers=2),
    "mlp": MlpBlock(units=[7, 6]),
}


def test_every_layer_of_a_stack_is_captured_by_name_with_its_width():
    stack = InteractionStack(BLOCKS, 20, 3, 4)
    last, captured = stack(X, FIELDS)
    assert list(captured) == list(stack.capture_widths)
    assert list(captured) == [
        *("input", "cross.0", "cross.1", "low_rank.0", "dot.0", "attention.0", "attention.1", "mlp.0", "mlp.1")
    ]
    assert {name: value.shape[1] for name, value in captured.items()} == stack.capture_widths
    assert torch.equal(captured["input"], X)
    assert torch.equal(last, captured["mlp.1"])
    assert last.shape == (5, stack.width)


def test_a_cross_layer_is_the_formula_of_dcn_v2():
    stack = InteractionStack({"cross": CrossBlock(layers=2)}, 20, 3, 4)
    first, second = stack.blocks[0].layers
    one = X * (X @ first.weight.T + first.bias) + X
    two = X * (one @ second.weight.T + second.bias) + one
    assert torch.allclose(stack(X, FIELDS)[0], two, atol=1e-5)


def test_the_dot_block_appends_every_pair_once():
    last, _ = InteractionStack({"dot": DotBlock()}, 20, 3, 4)(X, FIELDS)
    pairs = [(FIELDS[:, i] * FIELDS[:, j]).sum(1) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert torch.allclose(last, torch.cat([X, torch.stack(pairs, 1)], 1), atol=1e-5)


def test_self_attention_mixes_the_fields_of_a_row_and_of_no_other():
    stack = InteractionStack({"attention": SelfAttentionBlock(heads=2)}, 20, 3, 4)
    changed = FIELDS.clone()
    changed[0, 2] += 1.0
    before, after = stack(X, FIELDS)[0], stack(X, changed)[0]
    assert not torch.allclose(before[0, 20:24], after[0, 20:24])
    assert torch.allclose(before[1:], after[1:])


def test_heads_must_divide_the_embedding():
    with pytest.raises(ModelConfigError, match="heads=3 must divide embedding_dim=4"):
        InteractionStack({"attention": SelfAttentionBlock(heads=3)}, 20, 3, 4)


def test_target_attention_equals_attention_event_by_event():
    attention = DotTargetAttention(4, heads=2)
    torch.nn.init.normal_(attention.age)
    query, events, age = torch.randn(2, 4), torch.randn(2, 3, 4), torch.randn(2, 3)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    got = attention(query, events, mask, age)
    for row in range(2):
        pooled = []
        for head in range(2):
            projected = attention.query.weight[head * 4 : head * 4 + 4] @ query[row] / 2.0
            seen = [e for e in range(3) if mask[row, e]]
            scores = torch.stack([projected @ events[row, e] + attention.age[head] * age[row, e] for e in seen])
            pooled.append((scores.softmax(0)[:, None] * events[row, seen]).sum(0))
        assert torch.allclose(got[row], attention.out(torch.cat(pooled)), atol=1e-5)


def test_an_empty_list_pools_to_zero_whatever_its_padding():
    attention = DotTargetAttention(4, heads=2)
    mask = torch.zeros(1, 3, dtype=torch.bool)
    events = torch.randn(1, 3, 4)
    assert torch.equal(attention(torch.randn(1, 4), events, mask)[0], attention.out.bias)
    assert not masked_mean(events, mask).any()
    assert torch.allclose(
        masked_mean(events, torch.tensor([[True, False, True]]))[0], (events[0, 0] + events[0, 2]) / 2
    )
