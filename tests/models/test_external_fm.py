"""The documented example of an FM of one's own, through the codec, the file and the scorer; and broken ones."""

from pathlib import Path

import numpy as np
import pytest

from models.codec import unpack
from models.config import ExternalFmConfig
from models.errors import ArtifactError, ModelConfigError
from models.external_fm import ExternalScorer, fit_external, loader, run_fm
from models.fm_score import FmScorer
from models.fm_train import train_fm
from models.scorer import load_scorer
from tests.models.fm_world import CONFIG, HEADS, SPECS, window

EXAMPLE = Path(__file__).parents[2] / "docs/examples/own_fm"
TRAIN, VALIDATION = window(seed=1), window(seed=2, start=10_000)
COLUMNS = ["quality"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(EXAMPLE))
    import own_fm

    home = window(seed=1)
    label = dict(zip(home.labels["example_id"].to_pylist(), home.labels["label"].to_pylist(), strict=True))
    own = np.array([[label[i]] * len(HEADS) for i in home.inputs["example_id"].to_pylist()], np.float32)
    path = tmp_path_factory.mktemp("own") / "own.npz"
    own_fm.train(home.inputs, own, COLUMNS, path)
    yield ExternalFmConfig(load="own_fm:load", checkpoint=str(path), trained_until="1970-01-01T01:00")
    patch.undo()


@pytest.fixture(scope="module")
def result(settings, tmp_path_factory):
    return fit_external(CONFIG, settings, HEADS, TRAIN, VALIDATION, tmp_path_factory.mktemp("space"))


def test_the_fm_is_measured_and_its_cutoff_is_not_before_its_own_training(result):
    assert result.metrics["ne"] < 0.99
    assert result.metrics["auc"] > 0.57
    assert result.newest_instant == 3_600_000 > VALIDATION.newest_instant()
    assert result.history[-1].losses["codec"] < result.history[0].losses["codec"]


def test_one_file_scores_as_the_fm_does_and_its_codes_keep_the_captures(settings, result):
    scorer = load_scorer(result.path, result.digest, threads=1)
    assert isinstance(scorer, ExternalScorer)
    assert scorer.heads == HEADS
    Path(settings.checkpoint).rename(settings.checkpoint + ".away")
    again = load_scorer(result.path, result.digest)
    Path(settings.checkpoint + ".away").rename(settings.checkpoint)
    codes, logits = again.score(VALIDATION.inputs)
    expected, captured = loader("own_fm:load")(Path(settings.checkpoint))(VALIDATION.inputs.to_batches()[0])
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    z = unpack(codes, CONFIG.codec.bits)
    beside = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    fitted = beside @ np.linalg.lstsq(beside, captured, rcond=None)[0]
    assert ((fitted - captured) ** 2).mean() < 0.5 * captured.var(axis=0).mean()


def test_rows_score_the_same_however_they_come(result):
    scorer = load_scorer(result.path, result.digest)
    whole = scorer.score(VALIDATION.inputs)
    parts = [scorer.score(batch) for batch in VALIDATION.inputs.to_batches(max_chunksize=1024)]
    for place in (0, 1):
        np.testing.assert_array_equal(whole[place], np.concatenate([part[place] for part in parts]))
    codes, logits = scorer.score(VALIDATION.inputs.slice(0, 0))
    assert (codes.shape, logits.shape) == ((0, CONFIG.codec.code_bytes), (0, 2))


def test_the_projects_own_fm_still_loads(tmp_path):
    train = CONFIG.train.model_copy(update={"epochs": 1})
    own = train_fm(CONFIG.model_copy(update={"train": train}), SPECS, HEADS, TRAIN, VALIDATION, tmp_path)
    assert isinstance(load_scorer(own.path, own.digest), FmScorer)


def test_what_breaks_the_protocol_is_named(settings, tmp_path):
    rows = TRAIN.inputs.slice(0, 3)
    for broken, said in (
        (lambda rows: (np.zeros((3, 1)), np.zeros((3, 4))), r"gave shapes \(3, 1\) and \(3, 4\)"),
        (lambda rows: (np.zeros((3, 2)), np.zeros(3)), r"needed: logits \[3, 2\] and captures \[3, K\]"),
        (lambda rows: (np.zeros((3, 2)), np.full((3, 4), np.nan)), "not finite"),
    ):
        with pytest.raises(ArtifactError, match=said):
            list(run_fm("own:load", broken, rows, 2))
    with pytest.raises(ModelConfigError, match=r"fm.external.load: got 'no.such:thing'.*package.module:function"):
        loader("no.such:thing")
    missing = settings.model_copy(update={"checkpoint": "gone.npz"})
    with pytest.raises(ArtifactError, match=r"gone.npz: no such file"):
        fit_external(CONFIG, missing, HEADS, TRAIN, VALIDATION, tmp_path)
    with pytest.raises(ValueError, match="allowed: an ISO time"):
        ExternalFmConfig(load="a:b", checkpoint="c", trained_until="soon")
