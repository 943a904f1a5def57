"""Partial sums in place of rows: the same features to the bit, with no partition read that is not named."""

import pyarrow as pa
import pytest

from feature_store.asof import counters_frame, fm_inputs_frame
from feature_store.asof_partials import partials_frame
from feature_store.asof_parts import needed_parts
from feature_store.asof_plan import counter_names
from tests.feature_store.asof_world import dataset, frames, world


def all_parts(data):
    return sorted({row["part"] for rows in (data[0], data[2]) for row in rows})


def within(rows, parts):
    return [row for row in rows if row["part"] in parts]


def partials(spark, config, data, parts):
    examples, labels, past = frames(spark, config, *data)
    return partials_frame(spark, config, examples, labels, past, parts, "inputs")


def same(one, other):
    return one.sort_by("example_id").equals(other.sort_by("example_id"))


@pytest.mark.parametrize(
    ("changes", "seed", "rows"),
    [
        ({"grain": "10m", "lag": "20m"}, 12, 90),
        ({"grain": "6h", "lag": "0m", "fm_clock": "batch"}, 13, 90),
        pytest.param({"histories": {"availability": "at_once"}}, 12, 90, marks=pytest.mark.slow),
    ],
)
def test_features_from_partial_sums_equal_those_from_rows(spark, changes, seed, rows):
    config = dataset(**changes)
    data = world(config, seed, rows=rows, hours=30)
    known = all_parts(data)
    wanted = known[-4:-1]
    summed = partials(spark, config, data, known).toArrow()
    names = counter_names(config)
    for clock, made_by in (("fm", None), ("vm", names)):
        needed = needed_parts(config, wanted, known, known, made_by)
        assert needed.partial
        assert len(needed.raw) < len(known)
        some = frames(spark, config, *(within(table, needed.raw) for table in data))
        every = frames(spark, config, *data)
        sums = spark.createDataFrame(summed).where(f"part in {(*needed.partial, '')}")
        if clock == "fm":
            small = fm_inputs_frame(spark, config, *some, wanted, "inputs", sums).toArrow()
            large = fm_inputs_frame(spark, config, *every, wanted, "inputs").toArrow()
        else:
            small = counters_frame(spark, config, *some[:2], wanted, names, sums).toArrow()
            large = counters_frame(spark, config, *every[:2], wanted, names).toArrow()
        assert len(small) > 0
        assert same(small, large)


def test_partial_sums_singly_equal_the_range(spark):
    config = dataset(grain="6h")
    data = world(config, 14, rows=60, hours=20)
    columns = ("part", "measure", "key", "key_id", "available_at", "first_ts", "example_id")
    order = [(name, "ascending") for name in columns]
    parts = all_parts(data)
    together = partials(spark, config, data, parts).toArrow().sort_by(order)
    singly = pa.concat_tables([partials(spark, config, data, [part]).toArrow() for part in parts]).sort_by(order)
    assert len(together) > 50
    assert singly.equals(together)


def test_partial_sums_are_fewer_than_the_events_they_stand_for(spark):
    config = dataset(grain="1d", event_lists=[], fm_features=["item", "item_seen"], within_impression={"columns": []})
    data = world(config, 15, rows=200, hours=20)
    rows = partials(spark, config, (*data[:2], []), all_parts(data)).where("measure = 'fm.count'").collect()
    assert len(rows) == 5
    assert sum(row["units"] for row in rows) > 100 * 2**20


def test_only_edges_and_what_may_still_become_known_are_read_by_row():
    windows = ["2h", "1d"]
    features = [{"name": "clicks", "kind": "label_count", "key": ["item"], "label": "click", "windows": windows}]
    config = dataset(
        as_of=features,
        event_lists=[],
        fm_features=["clicks"],
        within_impression={"columns": []},
        verticals={"front": {"label": "click", "features": ["item"], "counters": ["clicks"]}},
    )
    clock = config.clock
    known = clock.between("2026-01-01T00", "2026-01-04T00")
    wanted = ["2026-01-03T12"]
    fm = needed_parts(config, wanted, known, known)
    # The last hour may gain labels (10 minutes of delay); 2 h and 24 h back lie the windows' edges.
    assert fm.raw == ["2026-01-02T12", "2026-01-03T10", "2026-01-03T11", "2026-01-03T12"]
    assert fm.partial == clock.between("2026-01-02T13", "2026-01-03T09")
    vm = needed_parts(config, wanted, known, known, ["clicks"])
    assert vm.raw == wanted
    assert vm.partial == clock.between("2026-01-02T11", "2026-01-03T11")
    assert needed_parts(config, wanted, known).raw == clock.between("2026-01-02T12", "2026-01-03T12")
