"""The supervised codec against a plain loop, and what it keeps that reconstruction loses."""

import math

import pytest
import torch

from models.codec import Codec, pack_tensor, unpack_tensor
from models.config import CodecConfig
from models.supervised_codec import SupervisedCodec, make_codec

CONFIG = CodecConfig(dim=2, prefixes=[1, 2], objective="labels")


def noise_and_a_faint_signal(rows=1500):
    """Eight loud activations tell nothing; a quiet one tells the label."""
    generator = torch.Generator().manual_seed(0)
    loud = torch.randn(rows, 8, generator=generator) * 3
    signal = torch.randn(rows, 1, generator=generator) * 0.3
    label = (torch.rand(rows, 1, generator=generator) < (10 * signal).sigmoid()).float()
    return torch.cat([loud, signal], dim=1), label


def trained(objective, captured, label):
    torch.manual_seed(0)
    codec = make_codec(CONFIG.model_copy(update={"objective": objective}), captured.shape[1], 1)
    optimizer = torch.optim.Adam(codec.parameters(), lr=2e-2)
    ones = torch.ones_like(label)
    for _ in range(60):
        optimizer.zero_grad()
        loss, weight = codec.terms(captured, label, ones, ones[:, 0])
        (loss / weight).backward()
        optimizer.step()
    return codec


def separation(codec, captured, label):
    """Largest difference of a stored value's means between the two labels, in deviations."""
    with torch.no_grad():
        z = unpack_tensor(pack_tensor(codec(captured), 4), 4)
    one, none = z[label[:, 0] == 1], z[label[:, 0] == 0]
    return float(((one.mean(0) - none.mean(0)).abs() / z.std(0).clamp(min=1e-6)).max())


def test_the_bottleneck_keeps_what_predicts_the_label():
    captured, label = noise_and_a_faint_signal()
    supervised, plain = (separation(trained(o, captured, label), captured, label) for o in ("labels", "reconstruction"))
    assert supervised > 1.0
    assert supervised > 3 * plain


def test_the_loss_equals_a_plain_loop():
    torch.manual_seed(0)
    codec = make_codec(CONFIG, 3, heads=2)
    captured = torch.randn(4, 3)
    labels, known = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]]), torch.tensor([[1.0, 1], [1, 0], [0, 0], [1, 1]])
    weight = torch.tensor([1.0, 2.0, 3.0, 0.5])
    expected = 0.0
    for row in range(4):
        z = (codec(captured[row : row + 1])[0] * 8).round().clamp(-8, 7) / 8
        for kept in (1, 2):
            logits = codec.decoder(torch.cat([z[:kept], torch.zeros(2 - kept)]))
            for head in range(2):
                p = 1 / (1 + math.exp(-float(logits[head])))
                chance = p if labels[row, head] else 1 - p
                expected -= float(known[row, head] * weight[row]) * math.log(chance) / 2
    loss, total = codec.terms(captured, labels, known, weight)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(total) == pytest.approx(2 * 1.0 + 2.0 + 2 * 0.5)


def test_no_gradient_reaches_the_activations():
    codec = make_codec(CONFIG, 3, heads=1)
    captured = torch.randn(5, 3, requires_grad=True)
    codec.terms(captured, torch.ones(5, 1), torch.ones(5, 1), torch.ones(5))[0].backward()
    assert captured.grad is None
    assert all(p.grad is not None and p.grad.any() for p in codec.parameters())


def test_the_objective_chooses_the_codec():
    assert type(make_codec(CONFIG, 3, 1)) is SupervisedCodec
    assert type(make_codec(CodecConfig(dim=2, prefixes=[2]), 3, 1)) is Codec
