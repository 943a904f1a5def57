"""Classes of a team's own, those of docs/extending.md: against plain loops, and within whole trainings."""

import math
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.config import BuiltInObjective, BuiltInReader, CodecConfig, OwnLoss, ReaderConfig, TrainConfig, VmConfig
from models.distillation import make_distiller
from models.errors import ModelConfigError
from models.feed import FeatureFeed
from models.fm_score import FmScorer
from models.fm_train import train_fm
from models.own_code import code_digest, is_own, own_class
from models.readers import HistoryReader
from models.supervised_codec import CODECS, make_codec
from models.token_readers import READERS, TokenReader
from models.vm import VmOutput
from models.vm_artifact import load_vm, save_vm
from models.vm_data import HistoryBatch
from models.vm_score import predict_batch
from models.vm_serving import VmServer
from models.vm_train import train_vm
from tests.models.fm_world import CONFIG as FM_CONFIG
from tests.models.fm_world import HEADS, SPECS, window
from tests.models.test_distillation import BATCH, HIDDEN, LABEL, LOGIT, TEACHER, WEIGHT, bce, sigmoid
from tests.models.test_readers import TABLE, make_pool, slow_token
from tests.models.test_vm_serving import snapshot
from tests.models.vm_files import HOUR, INPUTS, START, make_world

EXAMPLES = Path(__file__).parents[2] / "docs/examples/own_parts"
READER, CODEC, LOSS = "own_reader:ClickedReader", "own_codec:AbsoluteCodec", "own_loss:FocalLoss"


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@torch.no_grad()
def test_the_reader_equals_a_plain_loop():
    torch.manual_seed(1)
    config = ReaderConfig(key="item", kinds=["mean", READER], dim=6)
    reader, pool = HistoryReader(config, INPUTS, TABLE.shape[1], lambda rows: TABLE[rows]), make_pool([5, 4, 3])
    index, t = torch.arange(4), START + 120 * HOUR
    got = reader([HistoryBatch(index, pool)], torch.full((4,), t), torch.zeros(4, 0))
    clicked_rows = 0
    for row in range(1, 4):
        clicked = [
            slow_token(reader, "fm", pool, at, t)[0]
            for at in range(int(pool.offsets[row]), int(pool.offsets[row + 1]))
            if any(pool.labels[at, h] == 1 and pool.label_available_at[at, h] <= t for h in range(2))
        ]
        expected = sum(clicked) / len(clicked) if clicked else torch.zeros(6).double()
        clicked_rows += bool(clicked)
        torch.testing.assert_close(got[row, 6:12].double(), expected, rtol=1e-4, atol=2e-5)
    assert clicked_rows


ASKING = """
from models.token_readers import TokenReader

class Asking(TokenReader):
    query_width, seen = 3, []

    def forward(self, encoded, tokens, query):
        self.seen.append(query)
        return encoded.scale.new_zeros(len(query), 1, encoded.scale.shape[1])
"""


def test_a_reader_gets_the_query_that_it_asks_for(tmp_path, monkeypatch):
    (tmp_path / "asking_reader.py").write_text(ASKING)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = ReaderConfig(key="item", kinds=["attention", "asking_reader:Asking"], dim=6, heads=2)
    reader = HistoryReader(config, INPUTS, TABLE.shape[1], lambda rows: TABLE[rows])
    assert reader.query_width == 2 * 6 + 3
    query = torch.arange(15.0)[None]
    reader([HistoryBatch(torch.tensor([1]), make_pool([2]))], torch.tensor([START + 120 * HOUR]), query)
    assert reader.kinds[1].seen[0].tolist() == [[12.0, 13.0, 14.0]]


@torch.no_grad()
def test_the_codec_equals_a_plain_loop():
    torch.manual_seed(0)
    codec = make_codec(CodecConfig(dim=4, prefixes=[2, 4], objective=CODEC), 5, heads=1)
    captured = torch.randn(3, 5)
    total = 0.0
    for row in captured:
        z = (codec(row[None])[0] * 8).round().clamp(-8, 7) / 8
        for size in (2, 4):
            made = codec.decoder(torch.tensor([*z[:size].tolist(), *[0.0] * (4 - size)]))
            total += sum(abs(float(a) - float(b)) for a, b in zip(made, row, strict=True)) / 5 / 2
    loss, rows = codec.terms(captured, torch.zeros(3, 1), torch.ones(3, 1), torch.ones(3))
    assert float(loss) == pytest.approx(total, rel=1e-5)
    assert float(rows) == 3


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_loss_equals_a_plain_loop(weight):
    loss, total = make_distiller(OwnLoss(load=LOSS), weight, HIDDEN.shape[1]), 0.0
    for logit, label, row_weight, teacher in zip(LOGIT.tolist(), LABEL, WEIGHT, TEACHER, strict=True):
        p = sigmoid(logit) if label else 1 - sigmoid(logit)
        taught = 0.0 if math.isnan(teacher) else bce(sigmoid(teacher), logit)
        total += row_weight * ((1 - p) ** 2 * bce(label, logit) + weight * taught)
    assert float(loss(VmOutput(LOGIT, HIDDEN), BATCH)) == pytest.approx(total / sum(WEIGHT), rel=1e-5)


def test_a_vm_of_own_parts_trains_saves_and_serves(tmp_path):
    world = make_world(rows=400, hours=6, items=8, users=20)
    config = VmConfig(
        readers=[ReaderConfig(key="item", kinds=["mean", READER])],
        distillation=OwnLoss(load=LOSS),
        train=TrainConfig(epochs=2, batch_size=64),
    )
    feeds = [FeatureFeed(world.write(tmp_path / name), INPUTS, config, known_at=2**60) for name in ("a", "b")]
    trained = train_vm(config, INPUTS, *feeds, seed=0)
    plain = config.model_copy(update={"distillation": VmConfig().distillation})
    assert train_vm(plain, INPUTS, *feeds, seed=0).curve[0].train_loss != trained.curve[0].train_loss
    save_vm(trained.artifact, tmp_path / "vm")
    loaded = load_vm(tmp_path / "vm")
    rows, histories = snapshot(world)
    server = VmServer(loaded, histories)
    assert not server.projected
    np.testing.assert_allclose(server.score(rows), predict_batch(trained.artifact, rows, histories), atol=2e-6)


def test_an_fm_with_an_own_codec_trains_and_scores(tmp_path):
    config = FM_CONFIG.model_copy(
        update={
            "codec": FM_CONFIG.codec.model_copy(update={"objective": CODEC}),
            "train": FM_CONFIG.train.model_copy(update={"epochs": 1}),
        }
    )
    trained = train_fm(config, SPECS, HEADS, window(seed=1), window(seed=2, start=10_000), tmp_path)
    scorer = FmScorer.load(trained.path, trained.digest)
    assert type(scorer.model.codec).__name__ == "AbsoluteCodec"
    codes, _ = scorer.score(window(seed=3).inputs)
    assert codes.shape[1] == config.codec.code_bytes


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such:Reader", "reader.kinds: got 'no_such:Reader'.*allowed: package.module:Class"),
        ("own_reader:Nothing", "reader.kinds: got 'own_reader:Nothing'.*no attribute 'Nothing'"),
        (CODEC, "which is <class 'own_codec.AbsoluteCodec'>.*a subclass of models.token_readers.TokenReader"),
    ],
)
def test_a_class_that_is_not_there_or_none_of_its_kind_is_named(name, words):
    with pytest.raises(ModelConfigError, match=words):
        own_class(name, TokenReader, "reader.kinds")


@pytest.mark.parametrize("name", ["meen", "own:", ":Own", "a b:Own", "own:Two:Three"])
def test_settings_take_built_in_names_and_classes_alone(name):
    assert not is_own(name)
    for wrong in (
        lambda: ReaderConfig(key="item", kinds=[name]),
        lambda: CodecConfig(objective=name),
        lambda: OwnLoss(load=name),
    ):
        with pytest.raises(ValidationError, match=r"a class of your own as package\.module:Class"):
            wrong()


def test_every_built_in_name_has_its_class():
    assert set(READERS) == set(get_args(BuiltInReader))
    assert set(CODECS) == set(get_args(BuiltInObjective))


def test_own_parts_of_settings_are_known_by_their_code(tmp_path, monkeypatch):
    vm = VmConfig(readers=[ReaderConfig(key="item", kinds=["mean", READER])], distillation=OwnLoss(load=LOSS))
    assert vm.own_parts == [READER, LOSS]
    assert VmConfig(readers=[ReaderConfig(key="item")]).own_parts == []
    assert CodecConfig(objective=CODEC).own_parts == [CODEC]
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = []
    for place in ("first", "second"):
        (tmp_path / "own_part.py").write_text(f"class Part:\n    text = '{place}'\n")
        sys.modules.pop("own_part", None)
        digests.append(code_digest("own_part:Part"))
    assert digests[0] != digests[1]
