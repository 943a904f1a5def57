"""Warm starts and averages of FMs: what moves where, and that the space stays nearer than a fresh one's."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.checkpoint import load_artifact
from models.codec import unpack
from models.drift import mean_cosine
from models.errors import FeatureMismatchError, ModelConfigError
from models.fm_data import FmRows
from models.fm_launch import run_request, write_request
from models.fm_refresh import FM_KIND
from models.fm_score import FmScorer
from models.fm_train import train_fm
from tests.models.fm_world import CONFIG, HEADS, SPECS, window

SHORT = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"epochs": 1, "learning_rate": 2e-3})})
EMBEDDING = "fm.features.embeddings.1.weight"


def shifted(rows, by):
    """The same rows with items of other ids, some of them new."""
    place = rows.inputs.schema.get_field_index("item")
    item = pa.array(rows.inputs["item"].to_numpy() + by)
    return FmRows(rows.inputs.set_column(place, "item", item), rows.labels, rows.known_at)


FIRST = window(seed=1), window(seed=2, start=10_000)
SECOND = shifted(window(seed=3, start=20_000), -6), shifted(window(seed=4, start=30_000), -6)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return train_fm(CONFIG, SPECS, HEADS, *FIRST, tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    return train_fm(SHORT, SPECS, HEADS, *SECOND, tmp_path_factory.mktemp("second"), start=path(first))


def path(result):
    return Path(result.path)


def vectors(result, rows):
    codes, _ = FmScorer.load(result.path).score(rows.inputs)
    return np.asarray(unpack(codes, CONFIG.codec.bits), np.float64)


def test_a_warm_start_keeps_the_space_nearer_than_a_fresh_one(first, second, tmp_path):
    other = SHORT.model_copy(update={"train": SHORT.train.model_copy(update={"seed": 7})})
    fresh = train_fm(other, SPECS, HEADS, *SECOND, tmp_path)
    old = vectors(first, SECOND[1])
    warm, cold = (mean_cosine(old, vectors(result, SECOND[1])) for result in (second, fresh))
    assert warm > cold + 0.3
    assert second.metrics["ne"] < fresh.metrics["ne"]


def test_known_ids_keep_their_rows_and_new_ones_are_appended(first, second):
    old, new = (FmScorer.load(result.path).encoder.vocabularies["item"] for result in (first, second))
    assert np.array_equal(new.ids[: len(old.ids)], old.ids)
    assert set(new.ids) == set(range(-6, 20))


def test_the_average_is_the_mean_of_the_weights_by_id(first, second, tmp_path):
    averaged = train_fm(SHORT, SPECS, HEADS, *SECOND, tmp_path, start=path(first), snapshots=[path(first)])
    states = [load_artifact(result.path, FM_KIND)["state"] for result in (first, second, averaged)]
    for name, mean in states[2].items():
        old, new = states[0][name], states[1][name]
        both = (old + new[: len(old)]) / 2
        torch.testing.assert_close(mean, torch.cat([both, new[len(old) :]]))
    assert len(states[2][EMBEDDING]) > len(states[0][EMBEDDING])


def test_an_fm_that_is_no_ancestor_is_not_averaged(first, tmp_path):
    with pytest.raises(ModelConfigError, match="ids of item are not the first"):
        train_fm(SHORT, SPECS, HEADS, *SECOND, tmp_path, snapshots=[path(first)])


def test_other_heads_or_layers_are_named(first, tmp_path):
    wider = SHORT.model_copy(update={"embedding_dim": 4})
    with pytest.raises(FeatureMismatchError, match=r"has shape \(.*the new FM's"):
        train_fm(wider, SPECS, HEADS, *SECOND, tmp_path, start=path(first))
    with pytest.raises(FeatureMismatchError, match="its heads are"):
        train_fm(SHORT, SPECS, HEADS[::-1], *SECOND, tmp_path, start=path(first))


def test_a_training_by_request_gives_the_same_weights(first, second, tmp_path):
    write_request(tmp_path, SHORT, SPECS, HEADS, *SECOND, start=path(first))
    asked = run_request(tmp_path, None, resume=False)
    states = [load_artifact(result.path, FM_KIND)["state"] for result in (second, asked)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
