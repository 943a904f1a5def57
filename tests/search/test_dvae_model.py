"""The batched D-VAE against a plain loop over graphs, vertices and edges; its gradients; its decoder."""

import math

import pytest
import torch

from benchmarks.peers.dvae_loop import encode, loop_loss
from search.dvae.config import DvaeConfig
from search.dvae.dags import END, START, DagBatch
from search.dvae.model import Dvae
from search.dvae.recurrence import GruStep, Recurrence
from tests.search.dvae_graphs import bounded_dags, random_dags

SIZES = DvaeConfig(types=5, max_vertices=8, hidden=12, latent=6)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Dvae(SIZES)


def _noise(rows, scale=1.0):
    return scale * torch.randn(rows, SIZES.latent, generator=torch.Generator().manual_seed(1))


def test_loss_and_gradients_equal_the_plain_loop(model):
    dags = random_dags(16)
    noise = _noise(len(dags), scale=30.0)
    parameters = list(model.parameters())
    fast = model.loss(DagBatch.of(dags, SIZES.max_vertices), noise).total
    slow = loop_loss(model, dags, noise)
    assert fast.item() == pytest.approx(slow.item(), abs=1e-5)
    for ours, theirs in zip(torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_latents_equal_the_plain_loop_whatever_the_padding(model):
    dags = random_dags(10)
    mean, log_variance = model.encoder(DagBatch.of(dags, SIZES.max_vertices))
    for row, dag in enumerate(dags):
        expected = encode(model, dag)
        torch.testing.assert_close(mean[row], expected[0][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(log_variance[row], expected[1][0], atol=1e-5, rtol=0)


def test_means_take_any_number_of_rows(model):
    batch = DagBatch.of(random_dags(10), SIZES.max_vertices)
    torch.testing.assert_close(model.means(batch, rows=3), model.encoder(batch)[0])


def test_different_graphs_have_different_latents(model):
    dags = bounded_dags(30, largest=5, kinds=2)
    means = model.means(DagBatch.of(dags, SIZES.max_vertices))
    nearest = torch.cdist(means, means).fill_diagonal_(math.inf).min()
    assert nearest > 1e-5


def test_gradients_of_the_recurrence():
    torch.manual_seed(0)
    N, B, H = 3, 2, 3
    reads = torch.tril(torch.ones(B, N, N), -1).double().transpose(0, 1).contiguous()
    shapes = [(N, B, 3 * H), (B, H), (3 * H, H), (3 * H,), (2 * H, H), (N, 2 * H)]
    inputs, *rest = (torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(Recurrence.apply, (inputs, reads, *rest))
    shapes = [(B, N, 3 * H), (B, N, H), (B, N, 3 * H)]
    step = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(GruStep.apply, step)


def test_the_loss_is_its_parts(model):
    loss = model.loss(DagBatch.of(random_dags(5), SIZES.max_vertices), _noise(5))
    expected = loss.types + loss.edges + SIZES.kl_weight * loss.kl
    assert loss.total.item() == pytest.approx(expected.item())


def test_the_noise_is_scaled_down(model):
    mean, log_variance = torch.zeros(1, SIZES.latent), torch.full((1, SIZES.latent), math.log(4.0))
    z = model.latents(mean, log_variance, torch.ones(1, SIZES.latent))
    torch.testing.assert_close(z, torch.full_like(z, 0.01 * 2.0))


def test_samples_follow_the_model_that_the_loss_scores(model):
    """The share of a graph among samples is exp(-loss): teacher forcing and sampling are one distribution."""
    _sharpen(model)
    z = torch.randn(1, SIZES.latent)
    drawn = model.decoder.sample(z.expand(4000, -1), torch.Generator().manual_seed(0))
    dags = list(drawn.dags())
    finished = [dag for dag in dags if dag.types[-1] == END]
    common = sorted(set(finished), key=finished.count)[-3:]
    types, edges = model.decoder.losses(z.expand(3, -1), DagBatch.of(common, SIZES.max_vertices))
    for dag, loss in zip(common, types + edges, strict=True):
        p = math.exp(-loss.item())
        assert finished.count(dag) / len(dags) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / len(dags)))


def test_sampling_masks_nothing_and_ends_with_the_first_end(model):
    dags = list(model.decoder.sample(_noise(500), torch.Generator().manual_seed(0)).dags())
    assert all(dag.types[0] == START and END not in dag.types[:-1] for dag in dags)
    assert {len(dag) for dag in dags} == set(range(2, SIZES.max_vertices + 1))
    assert any(START in dag.types[1:] for dag in dags)
    assert 0 < sum(dag.bounded for dag in dags) < len(dags)


def test_sampling_is_reproducible(model):
    first, again = (model.decoder.sample(_noise(20), torch.Generator().manual_seed(7)).codes() for _ in range(2))
    assert first == again


def _sharpen(model):
    """Few graphs from one latent vector: larger logits."""
    with torch.no_grad():
        for layer in (model.decoder.type_head[-1], model.decoder.edge_head.last):
            layer.weight *= 8
