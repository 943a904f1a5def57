"""The feed against a brute-force join over the rows that the files were written from."""

import math
import threading

import numpy as np
import pytest

from models.config import FeatureSpec, ReaderConfig, VmConfig
from models.errors import FeatureMismatchError, ModelConfigError, SpaceMismatchError
from models.feed import FeatureFeed
from models.feed_files import FeedFiles
from models.histories import TokenColumns, decode_histories
from models.vm_data import gather_tokens
from tests.models.vm_files import HEADS, HOUR, INPUTS, SPACE, START, File, make_world

FOREVER = 2**60
READERS = [
    ReaderConfig(key="item"),
    ReaderConfig(key="user", tokens="control"),
    ReaderConfig(key="user", tokens="raw"),
]
CONFIG = VmConfig(readers=READERS)


@pytest.fixture(scope="module")
def world():
    return make_world()


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    return world.write(tmp_path_factory.mktemp("feed"), files_a_part=2)


def open_feed(files, **settings):
    return FeatureFeed(files, INPUTS, CONFIG, **{"known_at": FOREVER, **settings})


def ids_of(feed, encoder, size=64, seed=None):
    return [batch.example_id.tolist() for batch in feed.batches(encoder, size, seed)]


def flat(batches):
    return [example_id for batch in batches for example_id in batch]


@pytest.mark.parametrize("buffer_rows", [10_000, 120, 30])
def test_every_example_gets_its_own_history(world, files, buffer_rows):
    feed = open_feed(files, buffer_rows=buffer_rows)
    encoder, _ = feed.fit_encoder()
    rows = {r["example_id"]: r for r in world.rows if r["label"] is not None}
    seen = []
    for batch in feed.batches(encoder, 64, shuffle_seed=1):
        for place, example_id in enumerate(batch.example_id.tolist()):
            seen.append(example_id)
            check_row(batch, place, rows[example_id])
            for (kind, key), history in batch.histories.items():
                space = SPACE if kind == "fm" else "raw"
                check_history(world, rows[example_id], space, key, history, batch.event_ts[place : place + 1], place)
    assert sorted(seen) == sorted(rows)


def test_a_seed_draws_the_same_batches_from_other_files_of_the_same_rows(world, files, tmp_path):
    feeds = [open_feed(found) for found in (files, world.write(tmp_path, files_a_part=3))]
    encoder, _ = feeds[0].fit_encoder()
    first, other = (ids_of(feed, encoder, seed=1) for feed in feeds)
    assert ids_of(feeds[0], encoder) != ids_of(feeds[1], encoder)
    assert first == other
    assert first != ids_of(feeds[0], encoder, seed=2)


def check_row(batch, place, row):
    assert batch.label[place] == row["label"]
    assert batch.user[place] == row["user"]
    assert batch.event_ts[place] == row["event_ts"]
    assert batch.weight[place] == pytest.approx(row["weight"] / row["sampling_rate"])
    assert batch.sampling_rate[place] == pytest.approx(row["sampling_rate"])
    assert batch.has_impression[place] == (row["impression_id"] is not None)
    teacher = float(batch.teacher_logit[place])
    assert math.isnan(teacher) if row["teacher_logit"] is None else teacher == pytest.approx(row["teacher_logit"])


def check_history(world, row, space, key, history, event_ts, place):
    found = [
        h
        for h in world.histories[space, key, row["part"]]
        if h["key_id"] == row[f"key_{key}"] and h["as_of"] == row["as_of"]
    ]
    length = history.lengths(None)[place : place + 1]
    if not found:
        assert length.item() == 0
        assert history.index[place] == 0
        return
    expected = found[0]
    assert length.item() == expected["n"]
    tokens = gather_tokens(history.pool, history.index[place : place + 1], length, event_ts)
    ages = [(row["event_ts"] - e) / HOUR for e in expected["event_ts"]]
    np.testing.assert_allclose(tokens.age_hours[0], ages, rtol=1e-6)
    assert min(ages) > 0
    known = [
        label is not None and at is not None and at <= row["event_ts"]
        for label, at in zip(expected["labels"], expected["label_available_at"], strict=True)
    ]
    assert tokens.known[0].flatten().tolist() == known
    shown = [label if k else 0 for label, k in zip(expected["labels"], known, strict=True)]
    assert tokens.labels[0].flatten().tolist() == shown
    vectors = space == SPACE and key == "item"
    assert (tokens.z is not None) == (tokens.logits is not None) == vectors
    if vectors:
        assert bytes(tokens.z[0].flatten().tolist()) == expected["z"]
        np.testing.assert_allclose(tokens.logits[0].flatten(), expected["logits"], rtol=1e-6)
    assert (tokens.entities is not None) == (space == "raw")


def test_entities_of_raw_tokens_share_the_vms_vocabulary(world, files):
    feed = open_feed(files)
    encoder, _ = feed.fit_encoder()
    batch = next(feed.batches(encoder, 10_000))
    pool = batch.histories["raw", "user"].pool
    items = encoder.features.vocabularies["item"].ids
    tokens = [h["entities"] for part in world.parts for h in world.histories["raw", "user", part]]
    expected = [e for entities in tokens for e in entities[1::2]]
    assert items[pool.entities[:, 1] - 1].tolist() == expected
    narrow = INPUTS.model_copy(update={"features": [FeatureSpec(name="device", kind="categorical")]})
    own, _ = FeatureFeed(files, narrow, CONFIG, known_at=FOREVER).fit_encoder()
    assert set(own.entities) == {"user", "item"}
    assert sorted(own.entities["item"].ids.tolist()) == sorted(set(expected))


def test_unknown_and_immature_labels_are_left_out_never_negatives(world, files):
    known_at = START + 3 * HOUR
    feed = open_feed(files, known_at=known_at)
    encoder, rate = feed.fit_encoder()
    expected = [r for r in world.rows if r["label"] is not None and r["label_available_at"] <= known_at]
    assert sorted(flat(ids_of(feed, encoder))) == sorted(r["example_id"] for r in expected)
    weights = [r["weight"] / r["sampling_rate"] for r in expected]
    positives = sum(w for w, r in zip(weights, expected, strict=True) if r["label"])
    assert rate == pytest.approx(positives / sum(weights))
    everything = open_feed(files, known_at=None)
    assert len(flat(ids_of(everything, encoder))) == len(world.rows)


@pytest.mark.parametrize("buffer_rows", [10_000, 100])
def test_order_follows_the_seed_and_without_one_the_files(files, buffer_rows):
    feed = open_feed(files, buffer_rows=buffer_rows)
    encoder, _ = feed.fit_encoder()
    again = open_feed(files, buffer_rows=buffer_rows)
    assert ids_of(feed, encoder, seed=3) == ids_of(again, encoder, seed=3)
    assert ids_of(feed, encoder, seed=3) != ids_of(feed, encoder, seed=4)
    plain = flat(ids_of(feed, encoder))
    assert plain == flat(ids_of(open_feed(files), encoder, size=7))
    assert sorted(plain) == sorted(flat(ids_of(feed, encoder, seed=3)))


@pytest.mark.parametrize("limit", [20, 90])
def test_the_buffer_holds_no_more_rows_than_its_limit(files, limit):
    feed = open_feed(files, buffer_rows=limit)
    encoder, _ = feed.fit_encoder()
    groups = [len(slices) and sum(t.num_rows for _, t in slices) for slices in feed._slices(None, limit // 2)]
    assert max(groups) <= limit // 2
    assert sum(groups) == feed.rows
    alive = Alive()
    original = feed._assemble
    feed._assemble = lambda slices, enc: alive.track(original(slices, enc))
    for batch in feed.batches(encoder, 8, shuffle_seed=0):
        alive.check(limit)
        del batch
    assert alive.groups > 2


class Alive:
    """Counts rows of the groups that exist at once."""

    def __init__(self):
        self.lock, self.rows, self.groups = threading.Lock(), {}, 0

    def track(self, group):
        import weakref

        with self.lock:
            self.groups += 1
            token = self.groups
            self.rows[token] = len(group)
        weakref.finalize(group, self.rows.pop, token)
        return group

    def check(self, limit):
        with self.lock:
            assert sum(self.rows.values()) <= limit


def test_histories_of_another_space_stop_with_both_names(files):
    other = INPUTS.model_copy(update={"space_id": "fm-new"})
    with pytest.raises(SpaceMismatchError, match=f"of space {SPACE}.* space fm-new"):
        FeatureFeed(files, other, CONFIG, known_at=FOREVER)
    FeatureFeed(files, other, VmConfig(), known_at=FOREVER)
    swapped = FeedFiles(files.features, files.histories, files.histories)
    with pytest.raises(SpaceMismatchError, match=f"of space {SPACE}.* space raw"):
        FeatureFeed(swapped, INPUTS, CONFIG, known_at=FOREVER)


def test_missing_columns_and_keys_fail_by_name(files):
    features = [*INPUTS.features, FeatureSpec(name="gone", kind="numeric")]
    feed = FeatureFeed(files, INPUTS.model_copy(update={"features": features}), VmConfig(), known_at=FOREVER)
    with pytest.raises(FeatureMismatchError, match=r"parquet: no column \['gone'\]"):
        feed.fit_encoder()
    with pytest.raises(FeatureMismatchError, match=r"history key basket \(fm\).*\['item', 'user'\]"):
        FeatureFeed(files, INPUTS, VmConfig(readers=[ReaderConfig(key="basket")]), known_at=FOREVER)
    with pytest.raises(ModelConfigError, match="declares none"):
        FeatureFeed(files, INPUTS.model_copy(update={"counters": []}), VmConfig(counters=True), known_at=FOREVER)


def test_lists_of_the_wrong_length_fail_by_name(world):
    part = world.parts[3]
    table = world.histories_table(SPACE, "item", part)
    codes = np.zeros(table.num_rows, np.int64)
    with pytest.raises(ModelConfigError, match="key item: column labels"):
        decode_histories(table, codes, TokenColumns(heads=3), "item")
    with pytest.raises(ModelConfigError, match="key item: column z"):
        decode_histories(table, codes, TokenColumns(heads=len(HEADS), code_bytes=8), "item")


def test_an_empty_part_and_a_part_without_histories(world, files, tmp_path):
    empty = world.write(tmp_path, world.parts[:1])
    none = FeedFiles(empty.features, {"item": [], "user": []}, {"user": []})
    feed = open_feed(none)
    encoder, _ = feed.fit_encoder()
    batch = next(feed.batches(encoder, 1000))
    assert all((h.lengths(None) == 0).all() for h in batch.histories.values())
    late = open_feed(files, known_at=0)
    assert ids_of(late, encoder) == []
    assert ids_of(FeatureFeed(FeedFiles([]), INPUTS, VmConfig(), known_at=FOREVER), encoder) == []


def test_a_base_vm_reads_no_histories(files):
    broken = FeedFiles(files.features, {"item": [File("/nowhere.parquet", {"space_id": SPACE, "part": "x"}, 1)]})
    feed = FeatureFeed(broken, INPUTS, VmConfig(), known_at=FOREVER)
    encoder, _ = feed.fit_encoder()
    assert next(feed.batches(encoder, 10)).histories == {}
