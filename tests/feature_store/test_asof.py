"""As-of frames against the reference: both clocks, all keys, ranges, strictness."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.asof import counters_frame, fm_inputs_frame
from feature_store.asof_plan import counter_names
from feature_store.clocks import HOUR_MS
from feature_store.schemas import fm_inputs_schema
from tests.feature_store.asof_world import Reference, dataset, frames, world

CLOCKS = [
    {},
    {"grain": "10m", "lag": "0m"},
    {"grain": "1d", "day_offset": "90m", "lag": "1h"},
    {"grain": "6h", "lag": "7h"},
]
FM_CLOCKS = [*CLOCKS, *({**clock, "fm_clock": "batch"} for clock in CLOCKS)]
AT_ONCE = {"histories": {"availability": "at_once"}}
SEED = 4
many = settings(max_examples=16, deadline=None)
seeds = st.integers(0, 10_000)


def fm_rows(spark, config, data, parts):
    examples, labels, past = frames(spark, config, *data)
    return fm_inputs_frame(spark, config, examples, labels, past, parts, "inputs").toArrow()


def of_clock(changes, seed):
    """A data set and a small world of it, long enough for partitions that close within it."""
    config = dataset(**changes)
    return config, world(config, seed, rows=50, hours=max(7, 3 * config.grain // HOUR_MS))


def all_parts(data):
    return sorted({row["part"] for row in data[0]})


def by_id(table):
    return {row["example_id"]: row for row in table.to_pylist()}


def check_fm_inputs(spark, changes, seed):
    config, data = of_clock(changes, seed)
    parts = all_parts(data)[1:]
    table = fm_rows(spark, config, data, parts)
    has_the_schema_of_fm_inputs(table, config)
    rows = by_id(table)
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
    check_within_impression(rows, wanted, config, reference)


def has_the_schema_of_fm_inputs(table, config):
    expected = fm_inputs_schema(config)
    assert table.schema.names == expected.names
    for field in expected:
        got = table.schema.field(field.name).type
        assert got.value_type == field.type.value_type if pa.types.is_list(field.type) else got == field.type


def check_within_impression(rows, wanted, config, reference):
    """Rows of one request are compared with each other."""
    for column in config.within_impression.columns:
        values = {example_id: row[column] for example_id, row in rows.items()}
        for row in wanted:
            rank, difference = reference.within(row, column, values)
            got = rows[row["example_id"]]
            assert got[f"{column}_rank"] == rank
            assert got[f"{column}_diff"] == pytest.approx(difference, abs=1e-4)


def check_counters(spark, changes, seed):
    config, data = of_clock(changes, seed)
    examples, labels, _ = frames(spark, config, *data)
    names = counter_names(config)
    rows = by_id(counters_frame(spark, config, examples, labels, all_parts(data), names).toArrow())
    reference = Reference(config, "fm" if config.history_clock.at_once else "vm", *data)
    features = [feature for feature in config.as_of if feature.name in names]
    assert len(rows) == len(data[0])
    for row in data[0]:
        got = {name.removeprefix("counter_"): value for name, value in rows[row["example_id"]].items()}
        expected = reference.columns(row, features)
        assert {name: got[name] for name in expected} == expected


@pytest.mark.parametrize("changes", FM_CLOCKS, ids=str)
def test_fm_inputs_equal_the_reference(spark, changes):
    check_fm_inputs(spark, changes, SEED)


@pytest.mark.parametrize("changes", [CLOCKS[-1], AT_ONCE], ids=["closed partitions", "at once"])
def test_counters_equal_the_reference_on_the_clock_of_vms(spark, changes):
    check_counters(spark, changes, SEED)


@pytest.mark.slow
@many
@given(changes=st.sampled_from(FM_CLOCKS), seed=seeds)
def test_fm_inputs_equal_the_reference_over_random_worlds(spark, changes, seed):
    check_fm_inputs(spark, changes, seed)


@pytest.mark.slow
@many
@given(changes=st.sampled_from([*CLOCKS, AT_ONCE]), seed=seeds)
def test_counters_equal_the_reference_over_random_worlds(spark, changes, seed):
    check_counters(spark, changes, seed)


def test_the_worlds_of_the_reference_hold_what_there_is_to_see():
    """Else the tests above would compare zeros."""
    for changes in FM_CLOCKS:
        config, data = of_clock(changes, SEED)
        reference = Reference(config, "fm" if config.fm_clock == "event" else "vm", *data)
        rows = [row for row in data[0] if row["part"] in all_parts(data)[1:]]
        seen = [reference.columns(row, config.as_of) for row in rows]
        assert sum(row["item_seen_ever"] > 0 for row in seen) > 10, changes
        assert sum(row["item_rate_ever"] > 0 for row in seen) > 2, changes
        assert sum(bool(reference.event_list(row, config.event_lists[0])[0]) for row in rows) > 5, changes
        values = {row["example_id"]: made["item_seen_ever"] for row, made in zip(rows, seen, strict=True)}
        assert any(reference.within(row, "item_seen_ever", values)[0] > 0 for row in rows), changes


def test_partitions_singly_equal_the_range(spark):
    config = dataset()
    data = world(config, 6, hours=3)
    parts = all_parts(data)[-2:]
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
