"""Maps between spaces whose relation is known, and their use on packed codes."""

import numpy as np
import pytest
import torch

from models.alignment import KINDS, Alignment, SpaceCodes, fit_map, load_alignment, reconstruction, save_alignment
from models.codec import pack, unpack
from models.errors import ArtifactError, ModelConfigError

A, B = 6, 4


def vectors(rows=900, dim=A, seed=0):
    return np.tanh(np.random.default_rng(seed).normal(size=(rows, dim)) * 0.6)


def rotation(source=A, target=A, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(max(source, target),) * 2))[0][:target, :source]


def applied(kind, a, b, held_out):
    module = fit_map(kind, a, b)
    with torch.no_grad():
        return module(torch.from_numpy(held_out.astype(np.float32))).numpy()


def squared_error(kind, relation):
    a, held_out = vectors(), vectors(seed=9)
    return float(np.mean((applied(kind, a, relation(a), held_out) - relation(held_out)) ** 2))


def test_the_orthogonal_map_recovers_a_rotation_and_a_shift():
    turn = rotation()
    assert squared_error("orthogonal", lambda z: z @ turn.T + 0.1) < 1e-10
    weight = fit_map("orthogonal", vectors(), vectors() @ turn.T).linear.weight.detach().numpy()
    np.testing.assert_allclose(weight @ weight.T, np.eye(A), atol=1e-5)


def test_the_linear_map_recovers_any_affine_relation_where_a_rotation_cannot():
    mix = np.random.default_rng(2).normal(size=(B, A)) * 0.4
    assert squared_error("linear", lambda z: z @ mix.T - 0.2) < 1e-5
    assert squared_error("orthogonal", lambda z: z @ mix.T - 0.2) > 0.02


def test_the_linear_map_equals_ridge_regression_on_an_appended_system():
    a = vectors()
    b = a @ rotation(target=B).T + np.random.default_rng(3).normal(size=(len(a), B)) * 0.1
    x, y = a - a.mean(0), b - b.mean(0)
    penalty = 1e-3 * np.trace(x.T @ x) / A
    rows = np.concatenate([x, np.sqrt(penalty) * np.eye(A)])
    expected = np.linalg.lstsq(rows, np.concatenate([y, np.zeros((A, B))]), rcond=None)[0].T
    np.testing.assert_allclose(fit_map("linear", a, b).linear.weight.detach().numpy(), expected, atol=1e-5)


def test_the_mlp_bends_where_a_line_cannot():
    def bent(z):
        return np.stack([np.abs(z[:, 0]), z[:, 1] * z[:, 2], z[:, 3], z[:, 4] ** 2], axis=1)

    assert squared_error("mlp", bent) < 0.5 * squared_error("linear", bent)


def alignment(kind="linear", bits=(4, 8), target_dim=B):
    turn = rotation(target=target_dim)
    a = vectors()
    spaces = SpaceCodes("fm-old", A, bits[0]), SpaceCodes("fm-new", target_dim, bits[1])
    module = fit_map(kind, unpack(pack(a.astype(np.float32), bits[0]), bits[0]).astype(np.float64), a @ turn.T)
    return Alignment(kind, *spaces, fitted_until=77, module=module), turn


@pytest.mark.parametrize("bits", [(4, 8), (8, 4), (32, 4), (4, 32)])
def test_codes_are_mapped_value_by_value_and_packed_anew(bits):
    fitted, _ = alignment(bits=bits)
    codes = pack(vectors(50, seed=4).astype(np.float32), bits[0])
    made = fitted.codes(codes)
    assert made.shape == (50, B * bits[1] // 8)
    weight, bias = (p.detach().double().numpy() for p in (fitted.module.linear.weight, fitted.module.linear.bias))
    for row in range(50):
        exact = np.clip(weight @ unpack(codes[row], bits[0]).astype(np.float64) + bias, -1, 1)
        step = {4: 8, 8: 128, 32: 1e6}[bits[1]]
        assert np.abs(unpack(made[row], bits[1]) - np.minimum(exact, (step - 1) / step)).max() <= 0.5 / step + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_reconstruction_is_high_on_held_out_codes_and_low_for_unrelated_ones(kind):
    fitted, turn = alignment(kind, (8, 8), A)
    held_out = vectors(seed=5)
    a, b = (pack(values.astype(np.float32), 8) for values in (held_out, held_out @ turn.T))
    quality = reconstruction(fitted, a, b)
    assert quality["r2"] > 0.97
    assert quality["cosine"] > 0.98
    assert 0 < quality["equal"] <= 1
    assert reconstruction(fitted, a, b[::-1])["r2"] < 0


def test_a_saved_map_maps_the_same_and_knows_its_spaces(tmp_path):
    for kind in KINDS:
        fitted, _ = alignment(kind, target_dim=A)
        digest = save_alignment(tmp_path / f"{kind}.pt", fitted)
        loaded = load_alignment(tmp_path / f"{kind}.pt", digest)
        assert (loaded.source, loaded.target, loaded.fitted_until) == (fitted.source, fitted.target, 77)
        codes = pack(vectors(20).astype(np.float32), 4)
        assert np.array_equal(loaded.codes(codes), fitted.codes(codes))
    with pytest.raises(ArtifactError, match="was recorded"):
        load_alignment(tmp_path / "mlp.pt", "0" * 64)


def test_too_few_or_other_examples_are_refused():
    with pytest.raises(ModelConfigError, match="got 6 and 6 vectors"):
        fit_map("linear", vectors(6), vectors(6))
    with pytest.raises(ModelConfigError, match="the same examples in both"):
        fit_map("orthogonal", vectors(50), vectors(49))
