"""Ids read as unseen while training: new ids get a trained row, scores never change."""

from __future__ import annotations

import numpy as np
import torch

from models.config import FeatureSpec, VmConfig
from models.encode import FeatureEncoder
from models.vm import VerticalModel
from models.vm_data import VmInputs
from models.vm_encoder import VmEncoder
from models.vocabulary import Vocabulary

INPUTS = VmInputs(
    vertical="news",
    heads=["news"],
    space_id="fm-1",
    features=[FeatureSpec(name=name, kind="categorical") for name in ("user", "hour", "item")],
)


def indices(rate: float, training: bool) -> torch.Tensor:
    """20,000 rows [20,000, 3] of user, hour, item, each an id that the model knows."""
    ids = {spec.name: Vocabulary(np.array([7])) for spec in INPUTS.features}
    encoder = VmEncoder(FeatureEncoder(INPUTS.features, ids, {}, {}), {})
    model = VerticalModel(VmConfig(unseen_rate=rate), INPUTS, encoder)
    model.train(training)
    torch.manual_seed(0)
    return model._some_unseen(torch.ones(20_000, 3, dtype=torch.int64))


def test_the_declared_share_of_entities_is_read_as_unseen() -> None:
    unseen = (indices(0.3, training=True) == 0).float().mean(dim=0)
    assert (unseen[[0, 2]] - 0.3).abs().max() < 0.02


def test_what_is_no_entity_is_always_read() -> None:
    # EB-NeRD's hour, device and slate bucket have no new ids; read as unseen half the time they teach little.
    assert indices(1.0, training=True)[:, 1].min() == 1


def test_scoring_reads_every_id() -> None:
    assert indices(0.3, training=False).min() == 1
    assert indices(0.0, training=True).min() == 1
