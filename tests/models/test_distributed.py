import pytest
import torch

from models.checkpoint import load_artifact
from models.errors import TrainingProcessError
from models.fm_launch import launch, write_request
from models.fm_train import FM_KIND, train_fm
from tests.models.fm_world import CONFIG, HEADS, SPECS, window

TRAIN, VALIDATION = window(rows=700, seed=1), window(rows=401, seed=2, start=10_000)
TWO_EPOCHS = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"epochs": 2, "batch_size": 101})})


@pytest.mark.timeout(280)
def test_two_processes_train_as_one_on_the_same_global_batches(tmp_path):
    one = train_fm(TWO_EPOCHS, SPECS, HEADS, TRAIN, VALIDATION, tmp_path / "one")
    told = []
    write_request(tmp_path / "two", TWO_EPOCHS, SPECS, HEADS, TRAIN, VALIDATION)
    two = launch(tmp_path / "two", 2, told.append)
    assert told == two.history
    for epoch_one, epoch_two in zip(one.history, two.history, strict=True):
        assert epoch_two.losses == pytest.approx(epoch_one.losses, rel=1e-5)
        assert epoch_two.validation_ne == pytest.approx(epoch_one.validation_ne, rel=1e-5)
    assert two.metrics == pytest.approx(one.metrics, rel=1e-4)
    states = [load_artifact(result.path, FM_KIND, result.digest)["state"] for result in (one, two)]
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-4) for name in states[0])


def test_a_training_that_fails_shows_why(tmp_path):
    write_request(tmp_path, TWO_EPOCHS.model_copy(update={"captures": ["mlp.9"]}), SPECS, HEADS, TRAIN, VALIDATION)
    with pytest.raises(
        TrainingProcessError, match=r"ended with status 1:[\s\S]*allowed: \['input', 'mlp.0', 'mlp.1'\]"
    ):
        launch(tmp_path)
