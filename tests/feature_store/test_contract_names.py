"""Names of declared columns: each once, and none that a table has already."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from feature_store.contract_names import TABLE_COLUMNS
from feature_store.schemas import PARTITION_COLUMNS, table_schema
from tests.conftest import TINY, make_dataset

OF_ROWS = ("examples", "past_events", "fm_inputs", "fm_outputs", "features")


def count(name: str, *windows: str) -> dict[str, Any]:
    return {"name": name, "kind": "count", "key": ["item"], "windows": windows or ("1d",)}


def viewed(name: str) -> dict[str, Any]:
    return {"name": name, "key": ["user"], "entity": "item", "length": 2}


def feature(name: str, kind: str = "numeric") -> dict[str, Any]:
    return {"features": TINY["features"] | {name: {"value": "price", "kind": kind}}}


def test_every_column_of_a_table_that_rows_are_told_in_is_known() -> None:
    assert set(OF_ROWS) <= set(PARTITION_COLUMNS)
    dataset = make_dataset()
    declared = {*dataset.entities, *dataset.features, *(f"key_{key}" for key in dataset.histories.keys)}
    declared |= {f"label_{name}" for name in dataset.labels}
    for table in OF_ROWS:
        assert set(table_schema(dataset, table).names) - declared <= TABLE_COLUMNS, table


@pytest.mark.parametrize("name", sorted(TABLE_COLUMNS))
def test_a_feature_or_entity_named_like_a_column_of_the_tables_is_refused(name: str) -> None:
    for changes in (feature(name), {"entities": TINY["entities"] | {name: "user"}}):
        with pytest.raises(
            ValidationError, match=rf"{name}: makes column '{name}', which is a table's own; allowed: any"
        ):
            make_dataset(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (feature("user"), "features.user: makes column 'user', as entities.user does; use another name"),
        (feature("label_click"), "features.label_click: makes column 'label_click', as labels.click does"),
        (feature("known_like"), "features.known_like: makes column 'known_like', as labels.like does"),
        (feature("available_1"), "features.available_1: makes column 'available_1', as verticals.shop does"),
        (feature("key_user"), "features.key_user: makes column 'key_user', as histories.keys.user does"),
        ({"as_of": [count("seen"), count("seen", "2d")]}, "as_of.seen: makes column 'seen', as as_of.seen does"),
        ({"as_of": [count("seen", "1d", "1d")]}, "as_of.seen: makes column 'seen_1d', as as_of.seen does"),
        ({"as_of": [count("price")]}, "as_of.price: makes column 'price', as features.price does"),
        (
            feature("seen_1d") | {"as_of": [count("seen")]},
            "as_of.seen: makes column 'seen_1d', as features.seen_1d does",
        ),
        (
            {"as_of": [count("seen", "1d"), {"name": "seen_1d", "kind": "age", "key": ["item"]}]},
            "as_of.seen_1d: makes column 'seen_1d', as as_of.seen does",
        ),
        (
            feature("seen_1d_diff")
            | {"as_of": [count("seen")], "impression_id": "i", "within_impression": {"columns": ["seen_1d"]}},
            "within_impression.columns: makes column 'seen_1d_diff', as features.seen_1d_diff does",
        ),
        (
            {"event_lists": [viewed("old"), viewed("old")]},
            "event_lists.old: makes column 'old', as event_lists.old does",
        ),
        (
            feature("old_age_hours", "numeric_list") | {"event_lists": [viewed("old")]},
            "event_lists.old: makes column 'old_age_hours', as features.old_age_hours does",
        ),
        (
            feature("counter_seen_1d")
            | {
                "as_of": [count("seen")],
                "verticals": {"feed": {"label": "click", "features": ["item"], "counters": ["seen"]}},
            },
            "as_of.seen: makes column 'counter_seen_1d', as features.counter_seen_1d does",
        ),
        ({"fm_features": ["price", "price"]}, "fm_features: got ['price'] more than once; allowed: each name once"),
    ],
)
def test_two_declarations_of_one_column_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make_dataset(**changes)
    assert said in str(caught.value)
