"""A VM of one space reads histories of another through a map, without retraining; without the map it refuses."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from models.alignment import Alignment, SpaceCodes, fit_map
from models.codec import pack, unpack
from models.config import ReaderConfig, TrainConfig, VmConfig
from models.errors import SpaceMismatchError
from models.feed import FeatureFeed
from models.feed_files import FeedFiles
from models.metrics import evaluate
from models.vm_score import predict_batch, score_vm
from models.vm_train import train_vm
from tests.models.vm_files import CODE_DIM, INPUTS, SPACE, make_world

NEW, FOREVER = "fm-new", 2**60
CONFIG = VmConfig(
    readers=[ReaderConfig(key="item", kinds=["mean"])],
    train=TrainConfig(batch_size=64, epochs=3, learning_rate=1e-2, device="cpu"),
)
TURN = -np.linalg.qr(np.random.default_rng(0).normal(size=(CODE_DIM, CODE_DIM)))[0] * 0.5
OLD_CODES, NEW_CODES = SpaceCodes(SPACE, CODE_DIM, 4), SpaceCodes(NEW, CODE_DIM, 8)


def turned(z):
    return (z @ TURN.T).astype(np.float32)


def vectors_alone(world):
    """Tokens tell nothing beside their vectors: no logit, no label."""
    for (space, _, _), histories in world.histories.items():
        for history in histories if space == SPACE else []:
            history["logits"] = [0.0] * len(history["logits"])
            history["labels"] = [None] * len(history["labels"])
    return world


def in_new_space(world):
    """The same world as an FM of another initialisation writes it: vectors turned, 8 bits instead of 4."""
    other = copy.deepcopy(world)
    for (space, _, _), histories in other.histories.items():
        for history in histories if space == SPACE else []:
            codes = np.frombuffer(history["z"], np.uint8).reshape(history["n"], -1)
            history["z"] = pack(turned(unpack(codes, 4)), 8).tobytes()
            history["space_id"] = NEW
    return other


def of_space(files, space):
    named = {
        key: [replace(file, partition=file.partition | {"space_id": space}) for file in own]
        for key, own in files.histories.items()
    }
    return FeedFiles(files.features, named, files.raw_histories)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    world = vectors_alone(make_world(rows=1200, hours=10, items=25, users=40))
    root, parts = tmp_path_factory.mktemp("aligned"), (world.parts[:7], world.parts[7:])
    files = [world.write(root / f"old{place}", own) for place, own in enumerate(parts)]
    feeds = [FeatureFeed(own, INPUTS, CONFIG, known_at=FOREVER) for own in files]
    artifact = train_vm(CONFIG, INPUTS, *feeds, seed=1).artifact
    other = in_new_space(world)
    return world, other, artifact, files[1], of_space(other.write(root / "new", parts[1]), NEW)


@pytest.fixture(scope="module")
def alignment(made):
    z = np.stack([row["z"] for row in made[0].rows[:400]])
    target = unpack(pack(z, 4), 4)
    source = unpack(pack(turned(target), 8), 8)
    module = fit_map("linear", source.astype(np.float64), target.astype(np.float64))
    return Alignment("linear", NEW_CODES, OLD_CODES, 0, module)


def ne(artifact, feed):
    return evaluate(score_vm(artifact, feed))["ne"]


def test_an_aligned_history_is_worth_the_native_one(made, alignment):
    _, _, artifact, native, new = made
    own = ne(artifact, FeatureFeed(native, INPUTS, artifact.config, known_at=FOREVER))
    aligned = ne(artifact, FeatureFeed(new, INPUTS, artifact.config, known_at=FOREVER, alignment=alignment))
    wrong = Alignment(
        "linear", NEW_CODES, OLD_CODES, 0, fit_map("linear", *np.random.default_rng(1).normal(size=(2, 50, 4)))
    )
    lost = ne(artifact, FeatureFeed(new, INPUTS, artifact.config, known_at=FOREVER, alignment=wrong))
    assert abs(aligned - own) < 0.01
    assert lost > own + 0.02


def test_histories_in_hand_are_mapped_as_the_store_s_are(made, alignment):
    world, other, artifact, _, new = made
    stored = score_vm(artifact, FeatureFeed(new, INPUTS, artifact.config, known_at=None, alignment=alignment))
    expected = dict(zip(stored.example_id.tolist(), stored.p.tolist(), strict=True))
    part = world.parts[-1]
    rows, histories = world.table(part), {("fm", "item"): other.histories_table(SPACE, "item", part)}
    p = predict_batch(artifact, rows, histories, alignment)
    for example_id, value in zip(rows["example_id"].to_pylist(), p, strict=True):
        assert value == pytest.approx(expected[example_id], abs=1e-6)
    with pytest.raises(SpaceMismatchError, match=f"of space {NEW}.*reads {SPACE}"):
        predict_batch(artifact, rows, histories)


def test_a_mixed_space_without_a_map_or_with_another_is_refused(made, alignment):
    _, _, artifact, _, new = made
    with pytest.raises(SpaceMismatchError, match=f"are of space {NEW}, the VM reads space {SPACE}"):
        FeatureFeed(new, INPUTS, artifact.config, known_at=FOREVER)
    elsewhere = replace(alignment, target=SpaceCodes("fm-third", CODE_DIM, 4))
    with pytest.raises(SpaceMismatchError, match=f"leads to .*fm-third.*the model reads {SPACE}"):
        FeatureFeed(new, INPUTS, artifact.config, known_at=FOREVER, alignment=elsewhere)
    backwards = replace(alignment, source=SpaceCodes("fm-third", CODE_DIM, 8))
    with pytest.raises(SpaceMismatchError, match=f"are of space {NEW}, the VM reads space fm-third"):
        FeatureFeed(new, INPUTS, artifact.config, known_at=FOREVER, alignment=backwards)
