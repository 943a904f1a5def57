"""A server's chances equal those of the model that reads every history anew."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.config import AgeDropoutBoundary, NormBoundary, ReaderConfig, VmConfig
from models.errors import FeatureMismatchError, SpaceMismatchError
from models.feed import FeatureFeed
from models.vm import VerticalModel
from models.vm_artifact import VmArtifact
from models.vm_score import predict_batch
from models.vm_serving import VmServer
from tests.models.vm_files import HOUR, INPUTS, SPACE, make_world

ALL = ["mean", "newest", "decayed", "attention"]
READERS = {
    "all kinds": [ReaderConfig(key="item", kinds=ALL), ReaderConfig(key="user", kinds=ALL)],
    "raw and control": [
        ReaderConfig(key="item", tokens="raw", kinds=ALL),
        ReaderConfig(key="user", tokens="control", kinds=ALL),
    ],
    "cut, with boundaries": [
        ReaderConfig(key="item", kinds=ALL, length=2, boundary=NormBoundary()),
        ReaderConfig(key="user", kinds=ALL, boundary=AgeDropoutBoundary()),
    ],
    "keys together": [ReaderConfig(key="item", with_keys=["user"], kinds=["mean", "attention"])],
}


@pytest.fixture(scope="module")
def world():
    return make_world(rows=400, hours=6, items=8, users=20)


def artifact(world, tmp_path, readers, **settings):
    config = VmConfig(readers=readers, **settings)
    feed = FeatureFeed(world.write(tmp_path / "files"), INPUTS, config, known_at=2**60)
    encoder, _ = feed.fit_encoder()
    torch.manual_seed(3)
    model = VerticalModel(config, INPUTS, encoder)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return VmArtifact(config, INPUTS, encoder, model.eval())


def snapshot(world):
    """Histories of the newest horizon of the last part, and requests that read them."""
    part = world.parts[-1]
    as_of = max(h["as_of"] for h in world.histories[SPACE, "item", part])
    histories = {}
    for kind, space in (("fm", SPACE), ("raw", "raw")):
        for key in ("user", "item"):
            table = world.histories_table(space, key, part)
            histories[kind, key] = table.filter(pa.compute.equal(table["as_of"], as_of))
    rows = world.table(part)
    return rows.filter(pa.compute.equal(rows["as_of"], as_of)), histories


@pytest.mark.parametrize("fusion", ["concat", "additive"])
@pytest.mark.parametrize("readers", READERS.values(), ids=READERS.keys())
def test_chances_equal_those_of_the_model_itself(world, tmp_path, readers, fusion):
    vm = artifact(world, tmp_path, readers, fusion=fusion)
    rows, histories = snapshot(world)
    assert len(rows) > 20
    np.testing.assert_allclose(VmServer(vm, histories).score(rows), predict_batch(vm, rows, histories), atol=2e-6)


def test_a_label_that_is_not_yet_known_is_not_read(world, tmp_path):
    vm = artifact(world, tmp_path, READERS["all kinds"])
    rows, histories = snapshot(world)
    early = rows.set_column(
        rows.schema.get_field_index("event_ts"), "event_ts", pa.compute.subtract(rows["event_ts"], HOUR // 2)
    )
    server = VmServer(vm, histories)
    batch = server.batch(early)
    item = batch.histories["fm", "item"]
    assert not server.projected["fm_item"].all_labels_visible(item.index, batch.event_ts)
    np.testing.assert_allclose(server.score(early), predict_batch(vm, early, histories), atol=2e-6)


def test_the_kernel_is_compiled_before_the_first_request(world, tmp_path, monkeypatch):
    vm, asked = artifact(world, tmp_path, READERS["all kinds"]), []
    monkeypatch.setattr("models.history_kernel.pool", lambda tokens, index, *rest: asked.append(len(index)))
    VmServer(vm, snapshot(world)[1])
    assert asked == [0, 0]


def test_unknown_keys_read_an_empty_history(world, tmp_path):
    vm = artifact(world, tmp_path, READERS["all kinds"])
    rows, histories = snapshot(world)
    stranger = rows.set_column(rows.schema.get_field_index("key_item"), "key_item", pa.array([987_654] * len(rows)))
    np.testing.assert_allclose(
        VmServer(vm, histories).score(stranger), predict_batch(vm, stranger, histories), atol=2e-6
    )


class LoudestReader(torch.nn.Module):
    """A team's own reader: the token of the largest first value."""

    pooled = 1

    def forward(self, encoded, tokens, query):
        loudness = encoded.centred[..., 0].masked_fill(~tokens.mask, -1e9)
        return torch.nn.functional.one_hot(loudness.argmax(dim=1), loudness.shape[1]).float()[:, None]


def test_a_reader_that_reads_whole_tokens_gets_them(world, tmp_path):
    vm = artifact(world, tmp_path, [ReaderConfig(key="item", kinds=["mean"])])
    vm.model.readers["fm_item"].kinds = torch.nn.ModuleList([LoudestReader()])
    rows, histories = snapshot(world)
    server = VmServer(vm, histories)
    assert not server.projected
    np.testing.assert_allclose(server.score(rows), predict_batch(vm, rows, histories), atol=2e-6)


def test_what_a_server_needs_is_named(world, tmp_path):
    vm = artifact(world, tmp_path, READERS["all kinds"])
    rows, histories = snapshot(world)
    with pytest.raises(FeatureMismatchError, match="history key user"):
        VmServer(vm, {("fm", "item"): histories["fm", "item"]})
    twice = {**histories, ("fm", "item"): pa.concat_tables([histories["fm", "item"]] * 2)}
    with pytest.raises(FeatureMismatchError, match="key item: a key id stands twice"):
        VmServer(vm, twice)
    with pytest.raises(SpaceMismatchError):
        VmServer(vm, {**histories, ("fm", "item"): histories["raw", "item"]})
    with pytest.raises(FeatureMismatchError, match="column key_item"):
        VmServer(vm, histories).score(rows.drop_columns(["key_item"]))
