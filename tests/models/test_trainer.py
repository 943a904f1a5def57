import pytest
import torch

from models.config import TrainConfig
from models.errors import ArtifactError
from models.trainer import Task, Trainer

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -1.0, 0.5, 0.0])


def trainer(validation, checkpoint=None, progress=None, model=None, **settings):
    """A linear model with dropout whose validation NE at each epoch is given."""
    config = TrainConfig(**{"epochs": 6, "batch_size": 16, "learning_rate": 0.1, "device": "cpu"} | settings)
    if model is None:
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
    figures = iter(validation)

    def batches(epoch):
        yield from torch.randperm(64, generator=torch.Generator().manual_seed(epoch)).split(config.batch_size)

    def terms(rows):
        error = (model(X[rows])[:, 0] - Y[rows]).square()
        return {"error": (error.sum(), torch.tensor(float(len(rows))))}

    return Trainer(Task(model, batches, terms, lambda: next(figures)), config, checkpoint, progress=progress), model


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_stops_after_patience_and_ends_with_the_best_epoch():
    short, best = trainer([0.9, 0.8], epochs=2)
    short.fit()
    stopped, model = trainer([0.9, 0.8, 0.85, 0.81, 0.1], patience=2)
    history = stopped.fit()
    assert [record.validation_ne for record in history] == [0.9, 0.8, 0.85, 0.81]
    assert same(weights(model), weights(best))


def test_an_undefined_validation_ne_is_never_the_best():
    history = trainer([float("nan"), 0.9, float("nan")], patience=1)[0].fit()
    assert len(history) == 3


def test_the_learning_rate_decays_each_epoch_and_progress_is_told():
    told = []
    run, _ = trainer([0.9, 0.8, 0.7], epochs=3, learning_rate_decay=0.5, progress=told.append)
    assert run.fit() == told
    assert [record.learning_rate for record in told] == [0.1, 0.05, 0.025]
    assert told[2].losses["error"] < 0.5 * told[0].losses["error"]


def test_a_resumed_run_ends_in_bit_equal_weights(tmp_path):
    ne = [0.9, 0.8, 0.7, 0.6]
    run, straight = trainer(ne, epochs=4)
    run.fit()

    class KilledError(Exception):
        pass

    def kill(record):
        if record.epoch == 1:
            raise KilledError

    file = tmp_path / "checkpoint.pt"
    with pytest.raises(KilledError):
        trainer(ne, file, kill, epochs=4)[0].fit()
    torch.manual_seed(99)
    other = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
    resumed, model = trainer(ne[2:], file, model=other, epochs=4)
    history = resumed.fit()
    assert [record.validation_ne for record in history] == ne
    assert same(weights(model), weights(straight))


def test_a_finished_run_that_is_resumed_trains_no_more(tmp_path):
    file = tmp_path / "checkpoint.pt"
    run, model = trainer([0.9, 0.8, 0.85], file, patience=1)
    run.fit()
    again, other = trainer([], file, patience=1)
    assert len(again.fit()) == 3
    assert same(weights(model), weights(other))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    file = tmp_path / "checkpoint.pt"
    trainer([0.9], file, epochs=1)[0].fit()
    with pytest.raises(ArtifactError, match=r"checkpoint.pt: was written under.*delete the file"):
        trainer([0.9], file, epochs=1, learning_rate=0.5)[0].fit()


def test_mixed_precision_trains_too():
    run, _ = trainer([0.9, 0.8, 0.7], epochs=3, precision="bfloat16")
    history = run.fit()
    exact, _ = trainer([0.9, 0.8, 0.7], epochs=3)
    other = exact.fit()
    assert history[2].losses["error"] != other[2].losses["error"]
    assert history[2].losses["error"] == pytest.approx(other[2].losses["error"], rel=0.2, abs=0.05)
