from __future__ import annotations

from dataclasses import replace

import pytest

from feature_store.errors import MissingInputError
from feature_store.spaces import SpaceRegistry
from feature_store.tables import TableStore
from tests.conftest import make_dataset
from tests.feature_store.store_world import SPACE


@pytest.fixture
def registry(tmp_path):
    return SpaceRegistry(TableStore(str(tmp_path), make_dataset()))


def test_records_come_back_and_the_latest_wins(registry):
    assert registry.active() == []
    newer = replace(SPACE, space_id="fm-b", fm_train_cutoff=5)
    for record in (newer, SPACE, replace(SPACE, model_path="moved.pt")):
        registry.add(record)
    assert registry.get("fm-a") == replace(SPACE, model_path="moved.pt")
    assert [record.space_id for record in registry.all()] == ["fm-a", "fm-b"]
    assert SPACE.code_bytes == 2


def test_a_closed_space_is_kept_but_not_active(registry):
    registry.add(SPACE)
    registry.close("fm-a")
    assert registry.active() == []
    assert registry.get("fm-a").state == "closed"


def test_a_closed_space_is_opened_again(registry):
    registry.add(SPACE)
    assert not registry.open("fm-a")
    registry.close("fm-a")
    assert registry.open("fm-a")
    assert registry.active() == [SPACE]


def test_of_two_spaces_of_one_cutoff_the_one_opened_later_is_the_newer(registry):
    for name, opened_at in (("fm-z", 1), ("fm-a", 2)):
        registry.add(replace(SPACE, space_id=name, opened_at=opened_at))
    assert [record.space_id for record in registry.active()] == ["fm-z", "fm-a"]


def test_an_unknown_space_names_those_that_exist(registry):
    registry.add(SPACE)
    with pytest.raises(MissingInputError, match=r"space fm-x is not registered \(known: \['fm-a'\]\).*train-fm"):
        registry.get("fm-x")
