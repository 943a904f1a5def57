"""The deliberate leak of an FM that has seen the labels it is measured on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from feature_store.spaces import SpaceRecord
from models.config import FeatureSpec
from models.fm_data import FmRows
from models.fm_score import FmScorer
from models.fm_train import train_fm
from models.metrics import auc, places_of
from pipelines.context import RunContext
from pipelines.specs import fm_specs
from pipelines.windows import RunWindows

EPOCHS = 12
LEARNING_RATE = 0.01


def late_cutoff_gain(honest: RunContext, space: SpaceRecord, windows: RunWindows, vertical: str) -> float:
    """AUC on the test window that an FM gains when its training includes that window.

    Both FMs read the entities' ids besides the FM's features, never as unseen, and train long enough to memorise, so
    that only the window differs.
    """
    del space
    honest_auc = _fm_auc(honest, windows.fm_train, windows.fm_validation, windows.test, vertical)
    return _fm_auc(honest, windows.fm_train + windows.test, windows.test, windows.test, vertical) - honest_auc


def _fm_auc(context: RunContext, train: list[str], validation: list[str], test: list[str], vertical: str) -> float:
    dataset = context.dataset
    specs = fm_specs(dataset)
    named = {spec.name for spec in specs}
    specs += [FeatureSpec(name=name, kind="categorical", entity=True) for name in dataset.entities if name not in named]
    settings = context.config.fm
    memorising = {"epochs": EPOCHS, "patience": EPOCHS, "learning_rate": LEARNING_RATE, "learning_rate_decay": 1.0}
    training = settings.train.model_copy(update=memorising | {"embedding_decay": 0.0})
    config = settings.model_copy(update={"train": training, "unseen_rate": 0.0})
    with tempfile.TemporaryDirectory(dir=context.scratch) as folder:
        rows = [_rows(context, parts) for parts in (train, validation, test)]
        result = train_fm(config, specs, dataset.heads, rows[0], rows[1], Path(folder))
        _, logits = FmScorer.load(result.path, result.digest).score(rows[2].inputs)
    return _auc(rows[2], logits[:, dataset.heads.index(vertical)], vertical)


def _rows(context: RunContext, parts: list[str]) -> FmRows:
    scope = {"inputs_id": context.inputs_id}
    inputs = context.store.arrow("fm_inputs", context.pin("fm_inputs", scope, parts), scope, parts)
    labels = context.store.arrow("labels", context.pin("labels", {}, parts), {}, parts)
    return FmRows(inputs, labels, np.iinfo(np.int64).max)


def _auc(rows: FmRows, logit: np.ndarray, vertical: str) -> float:
    own = rows.labels.filter(pc.equal(rows.labels["vertical"], vertical))
    place = places_of(rows.inputs["example_id"].to_numpy(), own["example_id"].to_numpy())
    label = own["label"].to_numpy().astype(np.float64)
    return auc(label, logit.astype(np.float64)[place])
