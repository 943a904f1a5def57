"""Ids read as unseen while training: new ids get a trained row, scores never change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.config import FeatureSpec, FmConfig, VmConfig
from models.encode import FeatureEncoder
from models.fm import FieldLayer, FmInputs
from models.unseen import SomeUnseen
from models.vm import VerticalModel
from models.vm_data import VmInputs
from models.vm_encoder import VmEncoder
from models.vocabulary import Vocabulary

SPECS = [
    FeatureSpec(name="user", kind="categorical", entity=True),
    FeatureSpec(name="hour", kind="categorical"),
    FeatureSpec(name="item", kind="categorical", entity=True),
]
ENCODER = FeatureEncoder(SPECS, {spec.name: Vocabulary(np.array([7])) for spec in SPECS}, {}, {})
KNOWN = torch.ones(20_000, 3, dtype=torch.int64)


def read(rate: float, training: bool = True) -> torch.Tensor:
    """20,000 rows [20,000, 3] of user, hour, item, each an id that the model knows."""
    torch.manual_seed(0)
    return SomeUnseen(rate, ENCODER).train(training)(KNOWN)


def test_the_declared_share_of_entities_is_read_as_unseen() -> None:
    unseen = (read(0.3) == 0).float().mean(dim=0)
    assert (unseen[[0, 2]] - 0.3).abs().max() < 0.02


def test_what_is_no_entity_is_always_read() -> None:
    # EB-NeRD's hour, device and slate bucket have no new ids; read as unseen half the time they teach little.
    assert read(1.0)[:, 1].min() == 1


@pytest.mark.parametrize(("rate", "training"), [(0.3, False), (0.0, True)])
def test_scoring_reads_every_id(rate: float, training: bool) -> None:
    assert read(rate, training).min() == 1


def test_a_vm_reads_ids_so() -> None:
    inputs = VmInputs(vertical="news", heads=["news"], space_id="fm-1", features=SPECS)
    model = VerticalModel(VmConfig(unseen_rate=0.5), inputs, VmEncoder(ENCODER, {}))
    assert model.some_unseen.rate == 0.5
    assert model.some_unseen.of_entity.tolist() == [True, False, True]


def test_an_fm_learns_nothing_of_ids_that_it_reads_as_unseen() -> None:
    layer = FieldLayer(FmConfig(unseen_rate=0.5), ENCODER)
    layer.some_unseen.rate = 1.0
    fields = layer(FmInputs(KNOWN[:4], torch.zeros(4, 0), {}, {}))[1]
    fields.sum().backward()
    gradients = dict(zip(ENCODER.vocabularies, (table.weight.grad for table in layer.embeddings), strict=True))
    assert gradients["user"].abs().max() == 0
    assert gradients["item"].abs().max() == 0
    assert gradients["hour"].abs().max() > 0
