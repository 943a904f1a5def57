"""Training of the D-VAE: it learns, goes on after an interruption, and refuses what is not its own."""

import pytest
import torch

from models.errors import ArtifactError
from search.dvae.config import DvaeConfig, DvaeTraining
from search.dvae.dags import DagBatch
from search.dvae.train import DvaeTrainer, load_dvae, save_dvae
from search.errors import SpaceError, StateError
from tests.search.dvae_graphs import bounded_dags

SIZES = DvaeConfig(types=5, max_vertices=6, hidden=24, latent=8)
TRAINING = DvaeTraining(epochs=4, batch_size=16, learning_rate=5e-3)


@pytest.fixture
def graphs():
    return DagBatch.of(bounded_dags(48, largest=6), SIZES.max_vertices)


class InterruptedError(Exception):
    pass


def _stop_after(epoch):
    def progress(record):
        if record.epoch == epoch:
            raise InterruptedError

    return progress


def _equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_an_interrupted_training_ends_in_the_same_model(graphs, tmp_path):
    straight = DvaeTrainer(SIZES, TRAINING, graphs).fit()
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InterruptedError):
        DvaeTrainer(SIZES, TRAINING, graphs, path).fit(_stop_after(1))
    trainer = DvaeTrainer(SIZES, TRAINING, graphs, path)
    seen = []
    resumed = trainer.fit(lambda record: seen.append(record.epoch))
    assert seen == [2, 3]
    assert [record.epoch for record in trainer.history] == [0, 1, 2, 3]
    assert _equal(straight, resumed)


def test_a_training_whose_time_is_over_ends_after_an_epoch_and_goes_on_later(graphs, tmp_path):
    path, seen = tmp_path / "checkpoint.pt", []
    trainer = DvaeTrainer(SIZES, TRAINING, graphs, path)
    trainer.fit(lambda record: seen.append(record.epoch), lambda: len(seen) == 2)
    assert seen == [0, 1]
    assert _equal(DvaeTrainer(SIZES, TRAINING, graphs).fit(), DvaeTrainer(SIZES, TRAINING, graphs, path).fit())


def test_training_lowers_every_part_of_the_loss_that_it_should(graphs):
    trainer = DvaeTrainer(SIZES, TRAINING.model_copy(update={"epochs": 60}), graphs)
    trainer.fit()
    first, last = trainer.history[0], trainer.history[-1]
    assert last.types < 0.7 * first.types
    assert last.edges < 0.7 * first.edges
    assert last.kl > first.kl


def test_the_learning_rate_falls_to_its_share(graphs):
    trainer = DvaeTrainer(SIZES, TRAINING, graphs)
    trainer.fit()
    rates = [record.learning_rate for record in trainer.history]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * TRAINING.learning_rate


def test_another_seed_gives_another_model(graphs):
    models = [DvaeTrainer(SIZES, TRAINING.model_copy(update={"seed": seed}), graphs).model for seed in (0, 1)]
    assert not _equal(*models)


@pytest.mark.parametrize(
    ("config", "training", "rows", "name"),
    [
        (SIZES.model_copy(update={"hidden": 20}), TRAINING, 48, "config"),
        (SIZES, TRAINING.model_copy(update={"epochs": 5}), 48, "training"),
        (SIZES, TRAINING, 40, "graphs"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(graphs, tmp_path, config, training, rows, name):
    path = tmp_path / "checkpoint.pt"
    DvaeTrainer(SIZES, TRAINING.model_copy(update={"epochs": 4}), graphs, path).fit()
    with pytest.raises(StateError, match=f"its {name} differ"):
        DvaeTrainer(config, training, graphs[:rows], path).fit()


def test_a_broken_checkpoint_says_what_to_do(graphs, tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"no model")
    with pytest.raises(StateError, match="delete it to train from the start"):
        DvaeTrainer(SIZES, TRAINING, graphs, path).fit()


def test_graphs_must_fit_the_model(graphs):
    with pytest.raises(SpaceError, match="padded to max_vertices = 7"):
        DvaeTrainer(SIZES.model_copy(update={"max_vertices": 7}), TRAINING, graphs)
    with pytest.raises(SpaceError, match="at least one graph"):
        DvaeTrainer(SIZES, TRAINING, graphs[:0])


def test_a_model_is_saved_and_read(graphs, tmp_path):
    model = DvaeTrainer(SIZES, TRAINING, graphs).model
    path = tmp_path / "dvae.pt"
    save_dvae(path, model)
    read = load_dvae(path)
    assert read.config == SIZES
    assert _equal(model, read)
    with pytest.raises(ArtifactError, match="no such model file"):
        load_dvae(tmp_path / "absent.pt")
