import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.checkpoint import load_artifact
from models.distributed import Processes
from models.encode import FeatureEncoder
from models.errors import FeatureMismatchError, ModelConfigError
from models.fm_data import FmRows, as_tensors, fm_tensors
from models.fm_score import FmScorer
from models.fm_train import FM_KIND, FmWithCodec, train_fm
from models.trainer import Task, Trainer
from tests.models.fm_world import CONFIG, HEADS, SPECS, window

TRAIN, VALIDATION = window(seed=1), window(seed=2, start=10_000)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_fm(CONFIG, SPECS, HEADS, TRAIN, VALIDATION, tmp_path_factory.mktemp("fm"))


def state(result):
    return load_artifact(result.path, FM_KIND, result.digest)["state"]


def test_the_fm_learns_what_past_events_tell(trained, tmp_path):
    assert trained.metrics["ne"] < 0.75
    assert trained.metrics["auc"] > 0.8
    assert {"ne_home", "auc_video", "calibration_home"} <= set(trained.metrics)


def test_the_codec_keeps_most_of_the_captured_activations(trained):
    scorer = FmScorer.load(trained.path)
    with torch.inference_mode():
        captured = scorer.model.fm(as_tensors(scorer.encoder.encode(VALIDATION.inputs))).captured
        z = scorer.model.codec(captured)
        error = (scorer.model.codec.decoder(z) - captured).square().mean()
    assert error < 0.3 * (captured - captured.mean(0)).square().mean()


def test_the_same_training_gives_the_same_file(trained, tmp_path):
    again = train_fm(CONFIG, SPECS, HEADS, TRAIN, VALIDATION, tmp_path)
    assert again.digest == trained.digest
    assert again.metrics == trained.metrics


def test_a_training_killed_between_epochs_resumes_to_the_same_file(trained, tmp_path):
    class KilledError(Exception):
        pass

    def kill(record):
        raise KilledError

    with pytest.raises(KilledError):
        train_fm(CONFIG, SPECS, HEADS, TRAIN, VALIDATION, tmp_path, kill)
    resumed = train_fm(CONFIG, SPECS, HEADS, TRAIN, VALIDATION, tmp_path, resume=True)
    assert resumed.digest == trained.digest


def test_the_codecs_loss_never_reaches_the_fm():
    """The FM's weights are the same to the bit, whether the codec trains beside it or not."""

    def weights(with_codec):
        encoder = FeatureEncoder.fit(TRAIN.inputs, SPECS, CONFIG.max_vocabulary)
        tensors = fm_tensors(TRAIN, encoder, HEADS)
        torch.manual_seed(0)
        model = FmWithCodec(CONFIG, encoder, HEADS)
        start = [p.detach().clone() for p in model.codec.parameters()]

        def terms(batch):
            found = model.terms(batch)
            return found if with_codec else {"fm": found["fm"]}

        task = Task(model, lambda e: tensors.shuffled(e, 0, 256, Processes(), CPU), terms, lambda: 1.0)
        Trainer(task, CONFIG.train.model_copy(update={"epochs": 1})).fit()
        moved = any(not torch.equal(a, b) for a, b in zip(start, model.codec.parameters(), strict=True))
        return model.fm.state_dict(), moved

    (fm_with, codec_moved), (fm_without, codec_moved_without) = weights(True), weights(False)
    assert codec_moved
    assert not codec_moved_without
    assert all(torch.equal(fm_with[name], fm_without[name]) for name in fm_with)


def test_labels_become_known_one_by_one_and_never_count_before():
    encoder = FeatureEncoder.fit(TRAIN.inputs, SPECS, 100)
    half = dataclasses.replace(TRAIN, known_at=int(TRAIN.labels["label_available_at"].to_numpy().max()) // 2)
    tensors = fm_tensors(half, encoder, HEADS)
    known = TRAIN.labels.filter(pa.compute.less_equal(TRAIN.labels["label_available_at"], half.known_at))
    assert int(tensors.known.sum()) == known.num_rows
    assert len(tensors) == len(set(known["example_id"].to_pylist()))
    assert half.newest_instant() == max(half.known_at, TRAIN.inputs["event_ts"].to_numpy().max())
    by_id = {(row["example_id"], row["vertical"]): row["label"] for row in known.to_pylist()}
    used = TRAIN.inputs.filter(pa.compute.is_in(TRAIN.inputs["example_id"], known["example_id"]))
    for row, example_id in enumerate(used["example_id"].to_pylist()):
        for head, vertical in enumerate(HEADS):
            label = by_id.get((example_id, vertical))
            assert bool(tensors.known[row, head]) == (label is not None)
            assert tensors.labels[row, head] == (label or 0)


def test_a_null_label_is_unknown_and_weights_are_divided_by_the_sampling_rate():
    rows = TRAIN.inputs.slice(0, 2).set_column(
        TRAIN.inputs.schema.get_field_index("sampling_rate"), "sampling_rate", pa.array([0.5, 0.25], pa.float32())
    )
    ids = rows["example_id"].to_pylist()
    labels = pa.table(
        {
            "example_id": ids,
            "vertical": ["home", "home"],
            "label": pa.array([1, None], pa.int8()),
            "label_available_at": [0, 0],
        }
    )
    tensors = fm_tensors(FmRows(rows, labels, 0), FeatureEncoder.fit(rows, SPECS, 10), HEADS)
    assert tensors.known.tolist() == [[1.0, 0.0]]
    assert tensors.weight.tolist() == [2.0]


def test_a_window_without_known_labels_and_a_missing_feature_are_named(tmp_path):
    with pytest.raises(ModelConfigError, match="no row of the FM's window has a label"):
        train_fm(CONFIG, SPECS, HEADS, dataclasses.replace(TRAIN, known_at=-1), VALIDATION, tmp_path)
    without = dataclasses.replace(VALIDATION, inputs=VALIDATION.inputs.drop_columns(["quality"]))
    with pytest.raises(FeatureMismatchError, match="feature quality"):
        train_fm(CONFIG, SPECS, HEADS, TRAIN, without, tmp_path)


def test_the_order_of_training_depends_on_the_rows_not_on_their_files():
    rows = window()
    turned = FmRows(rows.inputs.take(np.arange(len(rows.inputs))[::-1]), rows.labels, rows.known_at)
    encoder = FeatureEncoder([], {}, {}, {}).extend(rows.inputs, SPECS, CONFIG.max_vocabulary)
    one, other = (
        [batch.inputs.num[:, 0] for batch in fm_tensors(of, encoder, HEADS).shuffled(3, 7, 100, Processes(), CPU)]
        for of in (rows, turned)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_every_global_batch_is_shared_out_whole():
    tensors = fm_tensors(TRAIN, FeatureEncoder.fit(TRAIN.inputs, SPECS, 100), HEADS)
    one = [batch.inputs.num[:, 0] for batch in tensors.shuffled(3, 7, 100, Processes(), CPU)]
    shares = [[b.inputs.num[:, 0] for b in tensors.shuffled(3, 7, 100, Processes(r, 2), CPU)] for r in (0, 1)]
    assert len(one) == len(shares[0]) == len(shares[1])
    for whole, left, right in zip(one, *shares, strict=True):
        assert np.array_equal(np.sort(whole), np.sort(torch.cat([left, right])))


def test_a_codec_of_several_layers_and_one_of_labels_train_save_and_score(trained, tmp_path):
    """Codes of float, 8 and 4 bits over two captured layers: sizes in the file are those of the settings."""
    for bits, objective in ((32, "labels"), (8, "reconstruction"), (4, "labels")):
        codec = CONFIG.codec.model_copy(update={"bits": bits, "objective": objective})
        train = CONFIG.train.model_copy(update={"epochs": 1})
        config = CONFIG.model_copy(update={"codec": codec, "captures": ["mlp.0", "mlp.1"], "train": train})
        result = train_fm(config, SPECS, HEADS, TRAIN, VALIDATION, tmp_path / f"{bits}")
        scorer = FmScorer.load(result.path, result.digest)
        assert scorer.model.codec.encoder[0].in_features == 16 + 8
        codes, logits = scorer.score(VALIDATION.inputs)
        assert codes.shape == (len(VALIDATION.inputs), codec.dim * bits // 8)
        assert len(np.unique(codes, axis=0)) > 100
        assert logits.shape == (len(codes), len(HEADS))
