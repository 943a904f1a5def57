import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.codec import Codec, pack, pack_tensor, prefix, unpack, unpack_tensor
from models.config import CodecConfig

vectors = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.integers(1, 8).map(lambda half: 2 * half)),
    elements=st.floats(-1, 1, width=32),
)


def slow_int4(z):
    """One value at a time: two's complement nibbles, the first value in the low half."""
    nibbles = [max(-8, min(7, round(8 * float(v)))) % 16 for v in z]
    return [low + 16 * high for low, high in zip(nibbles[0::2], nibbles[1::2], strict=True)]


@given(vectors)
def test_int4_packing_equals_the_slow_reference(z):
    assert pack(z, 4).tolist() == [slow_int4(row) for row in z]


@given(vectors, st.sampled_from([4, 8]))
def test_unpacked_values_are_within_half_a_step_except_at_the_clamp(z, bits):
    step = {4: 8, 8: 128}[bits]
    back = unpack(pack(z, bits), bits)
    assert back.shape == z.shape
    inside = z <= (step - 1) / step
    assert (np.abs(back - z)[inside] <= 0.5 / step + 1e-7).all()
    assert (back[~inside] == (step - 1) / step).all()


@given(vectors, st.sampled_from([4, 8, 32]))
def test_packing_what_was_unpacked_changes_nothing_and_tensors_agree(z, bits):
    codes = pack(z, bits)
    assert codes.shape[-1] == z.shape[-1] * bits // 8
    back = unpack(codes, bits)
    assert np.array_equal(pack(back, bits), codes)
    tensor_codes = pack_tensor(torch.from_numpy(z.copy()), bits)
    assert np.array_equal(tensor_codes.numpy(), codes)
    assert np.array_equal(unpack_tensor(tensor_codes, bits).numpy(), back)


def test_float32_is_exact_and_zero_bytes_are_zero():
    z = np.random.default_rng(0).uniform(-1, 1, (3, 4)).astype(np.float32)
    assert np.array_equal(unpack(pack(z, 32), 32), z)
    for bits in (4, 8, 32):
        assert not unpack(np.zeros((2, 8), np.uint8), bits).any()


def test_a_prefix_keeps_the_first_values():
    z = torch.arange(8.0).view(1, 8) + 1
    assert prefix(z, 3).tolist() == [[1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]]


def test_the_loss_reaches_the_codec_and_never_the_activations():
    codec = Codec(CodecConfig(dim=8, prefixes=[4, 8]), width=12, heads=1)
    captured = torch.randn(5, 12, requires_grad=True)
    codec.loss(captured).backward()
    assert captured.grad is None
    assert all(p.grad is not None and p.grad.any() for p in codec.parameters())


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_longer_prefixes_reconstruct_better(bits):
    torch.manual_seed(0)
    activations = torch.relu(torch.randn(512, 6) @ torch.randn(6, 24))
    codec = Codec(CodecConfig(dim=6, prefixes=[2, 4, 6], bits=bits), width=24, heads=1)
    optimizer = torch.optim.Adam(codec.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (codec.loss(activations) / 512).backward()
        optimizer.step()
    with torch.no_grad():
        z = unpack_tensor(pack_tensor(codec(activations), bits), bits)
        errors = [float((codec.decoder(prefix(z, size)) - activations).square().mean()) for size in (2, 4, 6)]
    assert errors[0] > 1.3 * errors[1] > 1.3 * 1.3 * errors[2]
    assert errors[2] < 0.35 * float(activations.var())


def test_no_hidden_layer_is_narrower_than_the_code_needs():
    small, large = (Codec(CodecConfig(dim=dim, prefixes=[dim]), 256, 1) for dim in (16, 64))
    assert small.encoder[0].out_features == 64
    assert large.encoder[0].out_features == large.decoder[0].out_features == 128
