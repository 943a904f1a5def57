"""Reconstruction, validity, uniqueness and novelty, on models whose answers are known."""

import pytest
import torch

from search.dvae.codec import GraphCodec
from search.dvae.config import DvaeConfig, DvaeTraining
from search.dvae.dags import DagBatch, TypedDag
from search.dvae.metrics import prior, reconstruction, scaled_prior
from search.dvae.model import Dvae
from search.dvae.train import DvaeTrainer
from search.graphs import Dag

CODEC = GraphCodec(Dag("body", ("a", "b"), 1, 3))
ONE, OTHER = TypedDag((0, 2, 1), ((0, 1), (1, 2))), TypedDag((0, 3, 1), ((0, 1), (1, 2)))
SIZES = DvaeConfig(types=CODEC.types, max_vertices=CODEC.max_vertices, hidden=8, latent=4)


@pytest.fixture(scope="module")
def sure():
    """A model that knows nothing but the graph ONE."""
    graphs = DagBatch.of([ONE] * 32, SIZES.max_vertices)
    return DvaeTrainer(SIZES, DvaeTraining(epochs=80, batch_size=32, learning_rate=0.05), graphs).fit()


def test_a_model_of_one_graph_rebuilds_that_graph_and_no_other(sure):
    graphs = DagBatch.of([ONE, ONE, ONE, OTHER], SIZES.max_vertices)
    found = reconstruction(sure, CODEC, graphs, encodings=3, decodings=4)
    assert found.most_frequent == 0.75
    assert found.average == pytest.approx(0.75, abs=0.1)


def test_its_prior_is_valid_not_unique_and_novel_unless_trained_on(sure):
    z = scaled_prior(torch.zeros(5, SIZES.latent), 20, torch.Generator().manual_seed(0))
    new = prior(sure, CODEC, [OTHER], z, decodings=5)
    assert new.validity > 0.9
    assert new.uniqueness < 0.2
    assert new.novelty == 1.0
    assert new.unique_per_vector == 0.05
    assert prior(sure, CODEC, [ONE], z, decodings=5).novelty < 0.2


def test_an_untrained_model_is_mostly_invalid():
    torch.manual_seed(0)
    model = Dvae(SIZES)
    assert prior(model, CODEC, [], torch.randn(50, SIZES.latent)).validity < 0.5


def test_prior_vectors_have_the_moments_of_the_training_latents():
    means = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.1]) + 4.0
    z = scaled_prior(means, 5000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(z.mean(dim=0), means.mean(dim=0), atol=0.1, rtol=0)
    torch.testing.assert_close(z.std(dim=0), means.std(dim=0), rtol=0.05, atol=0)
