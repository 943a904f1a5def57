"""As-of frames against the reference: both clocks, all keys, ranges, strictness."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_store.asof import counters_frame, fm_inputs_frame
from feature_store.asof_plan import counter_names
from feature_store.schemas import fm_inputs_schema
from tests.feature_store.asof_world import Reference, dataset, frames, world

CLOCKS = [
    {},
    {"grain": "10m", "lag": "0m"},
    {"grain": "1d", "day_offset": "90m", "lag": "1h"},
    {"grain": "6h", "lag": "7h"},
]
worlds = given(changes=st.sampled_from(CLOCKS), seed=st.integers(0, 10_000))
FM_CLOCKS = [*CLOCKS, *({**clock, "fm_clock": "batch"} for clock in CLOCKS)]
few = settings(max_examples=2, deadline=None)


def fm_rows(spark, config, data, parts):
    examples, labels, past = frames(spark, config, *data)
    return fm_inputs_frame(spark, config, examples, labels, past, parts, "inputs").toArrow()


def all_parts(data):
    return sorted({row["part"] for row in data[0]})


def by_id(table):
    return {row["example_id"]: row for row in table.to_pylist()}


@few
@given(changes=st.sampled_from(FM_CLOCKS), seed=st.integers(0, 10_000))
@example(changes=FM_CLOCKS[-1], seed=2)
def test_fm_inputs_equal_the_reference(spark, changes, seed):
    config = dataset(**changes)
    data = world(config, seed)
    parts = all_parts(data)[1:]
    rows = by_id(fm_rows(spark, config, data, parts))
    wanted = [row for row in data[0] if row["part"] in parts]
    assert set(rows) == {row["example_id"] for row in wanted}
    reference = Reference(config, "fm" if config.fm_clock == "event" else "vm", *data)
    for row in wanted:
        got = rows[row["example_id"]]
        expected = reference.columns(row, config.as_of)
        assert {name: got[name] for name in expected} == expected
        for declared in config.event_lists:
            assert (got[declared.name], got[f"{declared.name}_age_hours"]) == reference.event_list(row, declared)
        assert (got["price"], got["tags"], got["weight"]) == (row["price"], row["tags"], row["weight"])


def test_within_impression_compares_the_rows_of_one_request(spark):
    config = dataset()
    data = world(config, 4)
    rows = by_id(fm_rows(spark, config, data, all_parts(data)))
    reference = Reference(config, "fm", *data)
    for column in config.within_impression.columns:
        values = {example_id: row[column] for example_id, row in rows.items()}
        for row in data[0]:
            rank, difference = reference.within(row, column, values)
            got = rows[row["example_id"]]
            assert got[f"{column}_rank"] == rank
            assert got[f"{column}_diff"] == pytest.approx(difference, abs=1e-4)
    assert any(row["item_seen_ever_rank"] > 0 for row in rows.values())


@few
@worlds
def test_counters_equal_the_reference_on_the_clock_of_closed_partitions(spark, changes, seed):
    config = dataset(**changes)
    data = world(config, seed)
    examples, labels, _ = frames(spark, config, *data)
    names = counter_names(config)
    rows = by_id(counters_frame(spark, config, examples, labels, all_parts(data), names).toArrow())
    reference = Reference(config, "vm", *data)
    features = [feature for feature in config.as_of if feature.name in names]
    assert len(rows) == len(data[0])
    for row in data[0]:
        got = {name.removeprefix("counter_"): value for name, value in rows[row["example_id"]].items()}
        expected = reference.columns(row, features)
        assert {name: got[name] for name in expected} == expected


def test_frame_has_the_schema_of_fm_inputs(spark):
    config = dataset()
    table = fm_rows(spark, config, world(config, 5), ["2026-01-01T02"])
    expected = fm_inputs_schema(config)
    assert table.schema.names == expected.names
    for field in expected:
        got = table.schema.field(field.name).type
        assert got.value_type == field.type.value_type if pa.types.is_list(field.type) else got == field.type


def test_partitions_singly_equal_the_range(spark):
    config = dataset()
    data = world(config, 6, hours=3)
    parts = all_parts(data)
    together = fm_rows(spark, config, data, parts)
    singly = pa.concat_tables([fm_rows(spark, config, data, [part]) for part in parts])
    assert singly.sort_by("example_id").equals(together.sort_by("example_id"))


def test_nothing_at_or_after_an_instant_changes_rows_up_to_it(spark):
    config = dataset()
    examples, labels, past = world(config, 7)
    instant = sorted(row["event_ts"] for row in examples)[35]
    before = [row for row in examples if row["event_ts"] <= instant]
    known = {row["example_id"] for row in before}
    noise = np.random.default_rng(8)
    later = [row | {"user": int(noise.integers(4)), "weight": 9.0} for row in examples if row["event_ts"] > instant]
    swapped = [
        row | {"label": 1 - row["label"]}
        if row["label_available_at"] > instant or row["example_id"] not in known
        else row
        for row in labels
    ]
    fewer_past = [row for row in past if row["event_ts"] < instant]
    parts = sorted({row["part"] for row in examples})
    one = by_id(fm_rows(spark, config, (examples, labels, past), parts))
    other = by_id(fm_rows(spark, config, (before + later, swapped, fewer_past), parts))
    assert {key: one[key] for key in known} == {key: other[key] for key in known}
    assert any(one[key] != other[key] for key in set(one) - known)


def test_rows_of_one_instant_never_see_each_other(spark):
    config = dataset()
    examples, labels, _ = world(config, 9, rows=40)
    crowd = [row | {"event_ts": examples[0]["event_ts"], "part": examples[0]["part"]} for row in examples]
    known = [row | {"label_available_at": examples[0]["event_ts"]} for row in labels]
    rows = fm_rows(spark, config, (crowd, known, []), [crowd[0]["part"]]).to_pylist()
    assert len(rows) == 40
    assert all(row["item_seen_ever"] == row["item_clicks_ever"] == 0 and row["user_age"] == -1 for row in rows)
    assert all(row["clicked"] == row["viewers"] == [] for row in rows)
