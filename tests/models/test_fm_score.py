import numpy as np
import pytest
import torch

from models.codec import unpack
from models.errors import ArtifactError, FeatureMismatchError
from models.fm_data import as_tensors
from models.fm_score import FmScorer
from models.fm_train import train_fm
from tests.models.fm_world import CONFIG, HEADS, SPECS, window

ROWS = window(rows=300, seed=3, start=20_000).inputs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_fm(CONFIG, SPECS, HEADS, window(seed=1), window(seed=2, start=10_000), tmp_path_factory.mktemp("fm"))


def scorer(trained, **settings):
    return FmScorer.load(trained.path, trained.digest, threads=1, **settings)


def test_one_pass_gives_codes_and_logits_of_the_model(trained):
    one = scorer(trained)
    codes, logits = one.score(ROWS)
    assert codes.shape == (300, 4)
    assert codes.dtype == np.uint8
    with torch.inference_mode():
        output = one.model.fm(as_tensors(one.encoder.encode(ROWS)))
        z = one.model.codec(output.captured).numpy()
    assert np.allclose(logits, output.logits, atol=1e-5)
    assert logits.dtype == np.float32
    assert np.abs(unpack(codes, 4) - np.clip(z, -1, 7 / 8)).max() <= 1 / 16 + 1e-5
    assert len(np.unique(codes, axis=0)) > 50


def test_bytes_are_equal_in_runs_of_whole_batches_and_in_another_process_of_the_model(trained):
    codes, logits = scorer(trained, model_batch=64).score(ROWS)
    other = scorer(trained, model_batch=64)
    runs = [other.score(ROWS.slice(start, 128)) for start in range(0, 300, 128)]
    assert np.array_equal(np.concatenate([run[0] for run in runs]), codes)
    assert np.array_equal(np.concatenate([run[1] for run in runs]), logits)


def test_the_size_of_the_batch_moves_logits_by_rounding_only(trained):
    first, second = scorer(trained, model_batch=64).score(ROWS), scorer(trained, model_batch=256).score(ROWS)
    assert np.allclose(first[1], second[1], atol=1e-5)


def test_a_row_is_scored_alone_as_among_others(trained):
    one = scorer(trained)
    alone = np.concatenate([one.score(ROWS.slice(row, 1))[1] for row in range(5)])
    assert np.allclose(alone, one.score(ROWS)[1][:5], atol=1e-5)
    assert one.score(ROWS.slice(0, 0))[0].shape == (0, 4)


def test_a_wrong_digest_and_a_missing_feature_are_named(trained):
    with pytest.raises(ArtifactError, match=f"digest is {trained.digest}, feed was recorded"):
        FmScorer.load(trained.path, "feed")
    with pytest.raises(FeatureMismatchError, match="feature clicks: no such column"):
        scorer(trained).score(ROWS.drop_columns(["clicks"]))
