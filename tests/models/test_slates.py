"""Slates: who is in one, batches that split none, differences from their mean; and VMs that compare within them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.config import ReaderConfig, VmConfig
from models.feed import FeatureFeed
from models.slates import less_slate_mean, slate_codes, whole_slates
from models.vm_data import HistoryBatch
from models.vm_score import predict_batch, score_vm
from models.vm_serving import VmServer
from tests.models.test_vm_serving import artifact, snapshot
from tests.models.vm_files import INPUTS, make_world

FOREVER = 2**60
READERS = [ReaderConfig(key="item", kinds=["mean", "attention"]), ReaderConfig(key="user", tokens="raw")]
CONFIG = VmConfig(readers=READERS, within_impression=True)
ROWS = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), max_size=40)


@given(ROWS)
def test_a_slate_is_one_impression_at_one_instant(rows):
    impression, has, instant = (
        np.array([row[place] for row in rows], kind) for place, kind in enumerate((int, bool, int))
    )
    codes = slate_codes(impression, has, instant)
    for one, (a, known, t) in enumerate(rows):
        for other, (b, also, u) in enumerate(rows):
            together = one == other or (known and also and (a, t) == (b, u))
            assert (codes[one] == codes[other]) == together
    assert sorted(set(codes.tolist())) == list(range(len(set(codes.tolist()))))


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 12), st.none() | st.integers(0, 5))
def test_batches_hold_every_row_once_and_split_no_slate(codes, size, seed):
    slate = np.array(codes, np.int64)
    batches = [
        rows.tolist() for rows in whole_slates(slate, size, None if seed is None else np.random.default_rng(seed))
    ]
    assert sorted(row for rows in batches for row in rows) == list(range(len(codes)))
    owners = [{codes[row] for row in rows} for rows in batches]
    assert sum(map(len, owners)) == len(set(codes))
    assert all(len(rows) <= size or len(own) == 1 for rows, own in zip(batches, owners, strict=True))
    # No batch could have taken the slate that follows it.
    following = [codes.count(codes[rows[0]]) for rows in batches[1:]]
    assert all(len(rows) + more > size for rows, more in zip(batches, following, strict=False))
    if seed is None:
        firsts = [codes.index(code) for code in dict.fromkeys(codes[row] for rows in batches for row in rows)]
        assert firsts == sorted(firsts)


@settings(deadline=None)  # the first call loads parts of torch
@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_the_mean_is_that_of_the_slate(codes):
    values = torch.randn(len(codes), 3, generator=torch.Generator().manual_seed(0))
    found = less_slate_mean(values, torch.tensor(codes))
    for row, code in enumerate(codes):
        own = values[[place for place, other in enumerate(codes) if other == code]]
        torch.testing.assert_close(found[row], values[row] - own.mean(dim=0), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def world():
    return make_world(rows=400, hours=6, items=8, users=20, slate=3)


def by_example(scores):
    return dict(zip(scores.example_id.tolist(), scores.p.tolist(), strict=True))


@pytest.mark.parametrize(("files_a_part", "buffer_rows", "batch_size"), [(1, 10_000, 16), (2, 10_000, 7), (3, 30, 50)])
def test_chances_do_not_depend_on_batches_files_or_buffers(world, tmp_path, files_a_part, buffer_rows, batch_size):
    vm = artifact(world, tmp_path, READERS, within_impression=True)
    whole = by_example(score_vm(vm, FeatureFeed(world.write(tmp_path / "a"), INPUTS, CONFIG, known_at=None)))
    files = world.write(tmp_path / "b", files_a_part=files_a_part)
    parts = score_vm(vm, FeatureFeed(files, INPUTS, CONFIG, known_at=None, buffer_rows=buffer_rows), batch_size)
    found = by_example(parts)
    assert found.keys() == whole.keys()
    np.testing.assert_allclose([found[key] for key in whole], list(whole.values()), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_history_tells_of_its_slate_and_of_nothing_else(world, tmp_path):
    vm = artifact(world, tmp_path, READERS, within_impression=True)
    files = world.write(tmp_path / "own")
    batch = next(FeatureFeed(files, INPUTS, CONFIG, known_at=FOREVER).batches(vm.encoder, 10_000))
    sizes = torch.bincount(batch.slate)[batch.slate]
    item = batch.histories["fm", "item"]
    row = int(torch.nonzero((sizes == 3) & (item.index > 0))[0])
    emptied = item.index.clone()
    emptied[row] = 0
    other = type(batch)(
        **{**vars(batch), "histories": {**batch.histories, ("fm", "item"): HistoryBatch(emptied, item.pool)}}
    )
    changed = (vm.model(batch) - vm.model(other)).abs() > 1e-6
    assert torch.equal(changed, batch.slate == batch.slate[row])


def test_a_server_compares_the_candidates_of_a_request(world, tmp_path):
    vm = artifact(world, tmp_path, READERS, within_impression=True)
    rows, histories = snapshot(world)
    assert len(set(zip(rows["impression_id"].to_pylist(), rows["event_ts"].to_pylist(), strict=True))) < len(rows) - 5
    served = VmServer(vm, histories).score(rows)
    np.testing.assert_allclose(served, predict_batch(vm, rows, histories), atol=2e-6)
    alone = predict_batch(vm, rows.drop_columns(["impression_id"]), histories)
    assert np.abs(served - alone).max() > 1e-3


def test_an_empty_history_must_leave_the_rest_alone_under_additive_fusion():
    with pytest.raises(ValidationError, match=r"within_impression: got true; allowed with fusion additive: false"):
        VmConfig(within_impression=True, fusion="additive")
