"""Training end to end on files, the saved model, and predictions from histories in hand."""

import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.config import ReaderConfig, TrainConfig, VmConfig
from models.errors import ArtifactError, ModelConfigError, SpaceMismatchError
from models.feed import FeatureFeed
from models.metrics import evaluate, normalized_entropy
from models.vm_artifact import WEIGHTS_FILE, load_vm, save_vm
from models.vm_score import predict_batch, score_vm
from models.vm_train import train_vm
from tests.models.vm_files import INPUTS, SPACE, make_world

FOREVER = 2**60
TRAIN = TrainConfig(batch_size=64, epochs=3, learning_rate=5e-3, device="cpu")
FM = VmConfig(readers=[ReaderConfig(key="item"), ReaderConfig(key="user", tokens="raw")], kd_weight=0.3, train=TRAIN)


@pytest.fixture(scope="module")
def world():
    return make_world(rows=1500, hours=12, items=30, users=60)


@pytest.fixture(scope="module")
def windows(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("train")
    return world.write(root / "train", world.parts[:9]), world.write(root / "validation", world.parts[9:])


def fit(windows, config=FM, **settings):
    feeds = [FeatureFeed(files, INPUTS, config, known_at=FOREVER) for files in windows]
    return train_vm(config, INPUTS, *feeds, **settings)


@pytest.fixture(scope="module")
def trained(windows):
    return fit(windows, seed=1)


def scores_of(artifact, files, **settings):
    feed = FeatureFeed(files, INPUTS, artifact.config, known_at=FOREVER, **settings)
    return score_vm(artifact, feed)


def test_histories_of_the_fm_beat_control_and_base(windows, trained):
    base = fit(windows, VmConfig(train=TRAIN), seed=1)
    assert trained.metrics["ne"] < base.metrics["ne"] < 1.1
    assert trained.metrics["auc"] > 0.6
    assert trained.metrics["coverage_fm_item"] > 0.8


def test_the_best_epoch_is_kept(windows, trained):
    curve = [record.validation_ne for record in trained.curve]
    assert trained.metrics["ne"] == min(curve) == curve[trained.best_epoch]
    scores = scores_of(trained.artifact, windows[1])
    assert evaluate(scores)["ne"] == pytest.approx(trained.metrics["ne"], abs=1e-9)
    lines = []
    worse = FM.model_copy(update={"train": TRAIN.model_copy(update={"learning_rate": 0.5, "epochs": 8})})
    stopped = fit(windows, worse, seed=1, progress=lines.append)
    assert len(lines) == len(stopped.curve) < 8


def test_calibration_shifts_every_logit_alike_until_chances_sum_to_the_labels(windows):
    off = FM.model_copy(update={"kd_weight": 20.0})
    plain, calibrated = (fit(windows, off.model_copy(update={"calibrate": wanted}), seed=1) for wanted in (False, True))
    before, after = (scores_of(result.artifact, windows[1]) for result in (plain, calibrated))
    assert abs(plain.metrics["calibration"] - 1) > 0.05, "the teacher must pull far enough for something to mend"
    assert calibrated.metrics["calibration"] == pytest.approx(1, abs=1e-4)
    logits = [np.log(scores.p / (1 - scores.p)) for scores in (before, after)]
    np.testing.assert_allclose(logits[1] - logits[0], np.mean(logits[1] - logits[0]), atol=1e-4)
    assert calibrated.metrics["gauc"] == pytest.approx(plain.metrics["gauc"], abs=1e-9)


def test_a_seed_repeats_and_another_differs(windows, trained):
    state = trained.artifact.model.state_dict()
    again, other = (fit(windows, seed=seed).artifact.model.state_dict() for seed in (1, 2))
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not all(torch.equal(state[name], other[name]) for name in state)


def test_a_bounded_buffer_scores_the_same(windows, trained):
    whole, bounded = (scores_of(trained.artifact, windows[1], buffer_rows=rows) for rows in (10_000, 100))
    np.testing.assert_array_equal(whole.example_id, bounded.example_id)
    np.testing.assert_allclose(whole.p, bounded.p, atol=1e-6)
    small = [FeatureFeed(files, INPUTS, FM, known_at=FOREVER, buffer_rows=300) for files in windows]
    assert train_vm(FM, INPUTS, *small, seed=1).metrics["ne"] == pytest.approx(whole_ne(whole), abs=0.15)


def whole_ne(scores):
    return normalized_entropy(scores.label, scores.p, scores.weight)


def test_weights_reach_the_model(windows, world, tmp_path):
    heavy = make_world(rows=1500, hours=12, items=30, users=60)
    for row in heavy.rows:
        row["weight"] *= 20.0 if row["label"] else 1.0
    files = heavy.write(tmp_path, heavy.parts[:9])
    plain, weighted = (fit((train, windows[1]), VmConfig(train=TRAIN), seed=1) for train in (windows[0], files))
    means = [scores_of(result.artifact, windows[1]).p.mean() for result in (plain, weighted)]
    assert means[1] > means[0] + 0.2


def test_a_saved_model_loads_from_its_folder_alone(windows, trained, tmp_path):
    digest = save_vm(trained.artifact, tmp_path / "saved")
    shutil.move(tmp_path / "saved", tmp_path / "elsewhere")
    loaded = load_vm(tmp_path / "elsewhere", digest)
    assert loaded.config == FM
    assert loaded.inputs == INPUTS
    before, after = (scores_of(artifact, windows[1]) for artifact in (trained.artifact, loaded))
    np.testing.assert_array_equal(before.p, after.p)


def test_loading_needs_no_module_of_the_fm(trained, tmp_path):
    save_vm(trained.artifact, tmp_path)
    code = (
        "import sys, pathlib; from models.vm_artifact import load_vm; load_vm(pathlib.Path(sys.argv[1]));"
        "print([m for m in sys.modules if m.startswith('models.fm')])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_changed_or_missing_file_is_named(trained, tmp_path):
    digest = save_vm(trained.artifact, tmp_path)
    assert save_vm(trained.artifact, tmp_path / "again") == digest
    with (tmp_path / WEIGHTS_FILE).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=f"registered is {digest}"):
        load_vm(tmp_path, digest)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(ArtifactError, match=rf"{WEIGHTS_FILE}: cannot be read"):
        load_vm(tmp_path)


def histories_in_hand(world, part, space_of):
    tables = {key: world.histories_table(space_of[key[0]], key[1], part) for key in (("fm", "item"), ("raw", "user"))}
    return {key: table.append_column("unused", pa.nulls(table.num_rows)) for key, table in tables.items()}


def test_predictions_from_histories_in_hand_equal_the_offline_score(world, windows, trained):
    part = world.parts[-1]
    rows = world.table(part)
    offline = scores_of(trained.artifact, windows[1])
    expected = dict(zip(offline.example_id.tolist(), offline.p.tolist(), strict=True))
    blind = rows.drop_columns(["label", "label_available_at", "teacher_logit", "weight", "sampling_rate"])
    histories = histories_in_hand(world, part, {"fm": SPACE, "raw": "raw"})
    p = dict(zip(rows["example_id"].to_pylist(), predict_batch(trained.artifact, blind, histories), strict=True))
    assert {i: p[i] for i in p if i in expected} == pytest.approx(
        {i: expected[i] for i in p if i in expected}, abs=1e-6
    )
    assert len(p) > 50
    assert len(predict_batch(trained.artifact, blind.slice(0, 0), histories)) == 0


def test_another_space_stops_scoring_with_both_names(world, windows, trained):
    other = INPUTS.model_copy(update={"space_id": "fm-new"})
    feed = FeatureFeed(windows[1], INPUTS, FM, known_at=FOREVER)
    feed.inputs = other
    with pytest.raises(SpaceMismatchError, match=f"reads space {SPACE}.*space fm-new"):
        score_vm(trained.artifact, feed)
    wrong = histories_in_hand(world, world.parts[-1], {"fm": "raw", "raw": "raw"})
    with pytest.raises(SpaceMismatchError, match=f"of space raw.*reads {SPACE}"):
        predict_batch(trained.artifact, world.table(world.parts[-1]), wrong)


def test_bfloat16_trains_as_well(windows, trained):
    config = FM.model_copy(update={"train": TRAIN.model_copy(update={"precision": "bfloat16"})})
    assert fit(windows, config, seed=1).metrics["ne"] == pytest.approx(trained.metrics["ne"], abs=0.05)


def test_training_refuses_unknown_labels_and_an_empty_window(windows):
    open_ended = [FeatureFeed(files, INPUTS, FM, known_at=None) for files in windows]
    with pytest.raises(ModelConfigError, match="known_at"):
        train_vm(FM, INPUTS, *open_ended)
    early = [FeatureFeed(files, INPUTS, FM, known_at=0) for files in windows]
    with pytest.raises(ModelConfigError, match="no row whose label is known"):
        train_vm(FM, INPUTS, *early)
