"""Every fault that a source can have, fed to a real ingest: what passes, what is set aside and why, what stops it."""

from __future__ import annotations

import json
import math
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql.pandas.types import from_arrow_schema

from feature_store.errors import BadDataError, ContractError
from feature_store.ingest import ingest_frames, source_parts
from feature_store.profile import profile
from feature_store.schemas import LABELS, QUARANTINE, examples_schema
from tests.feature_store.shop_source import PARTS, SCHEMA, START, row, shop, write


def collected(spark, dataset, parts):
    """Sorted rows of every frame, and the rejected counts."""
    frames = ingest_frames(spark, dataset, parts)
    try:
        tables = [
            sorted(map(tuple, f.collect()), key=repr) for f in (frames.examples, frames.labels, frames.quarantine)
        ]
        return (*tables, frames.rejected, frames.warnings)
    finally:
        frames.release()


def reasons(quarantine):
    return Counter(reason for _, reason, _, _ in quarantine)


FAULTS = {
    "null user": {"user": None},
    "null item": {"item": None},
    "null event_ts": {"time": None},
    "unparsable event_ts": {"time": -1},
    "null arrived_at": {"arrived": None},
    "unparsable arrived_at": {"arrived": 2**60},
    "non-finite price": {"price": math.inf},
    "non-finite weight": {"share": math.nan},
    "null weight": {"share": None},
    "weight not at least 0": {"share": -1.0},
    "label click outside {0, 1}": {"click": 0.5},
    "arrived_at before event_ts": {"arrived": START - 1},
}


def test_every_fault_goes_to_quarantine_by_name_with_its_row_and_file(spark, tmp_path):
    good = [row(n) for n in range(20)]
    bad = [row(100 + n, **change) for n, change in enumerate(FAULTS.values())]
    path = write(tmp_path / "day.parquet", good + bad + [row(50, click=math.nan), row(51, price=1e300)])
    examples, _, quarantine, rejected, _ = collected(spark, shop(path), PARTS[:1])
    expected = Counter(FAULTS.keys()) + Counter({"label click outside {0, 1}": 1, "non-finite price": 1})
    assert reasons(quarantine) == expected
    assert len(examples) == 20
    assert rejected == {PARTS[0]: sum(expected.values())}
    assert {file for _, _, file, _ in quarantine} == {str(path)}
    rows = {reason: json.loads(text) for _, reason, _, text in quarantine}
    assert rows["null user"] == row(100, user=None)


def as_seconds(number: int, **changes: float) -> dict[str, object]:
    """A good row with times in seconds as floats, and the instant from which its label is known."""
    good = row(number)
    return (
        good | {"time": good["time"] / 1000, "arrived": good["arrived"] / 1000, "known": good["time"] / 1000} | changes
    )


def test_a_time_that_is_no_instant_is_set_aside_wherever_it_stands(spark, tmp_path):
    floats = [*SCHEMA, pa.field("known", pa.float64())]
    schema = pa.schema([pa.field(f.name, pa.float64()) if f.name in ("time", "arrived") else f for f in floats])
    wrong = [
        (name, value) for name in ("time", "arrived", "known") for value in (math.nan, math.inf, -math.inf, -1, 1e12)
    ]
    rows = [as_seconds(1), *(as_seconds(2 + n, **{name: value}) for n, (name, value) in enumerate(wrong))]
    dataset = shop(
        write(tmp_path / "d.parquet", rows, schema),
        event_ts={"value": "time", "unit": "s"},
        arrived_at={"value": "arrived", "unit": "s"},
        labels={"click": {"value": "click", "available_at": {"value": "known", "unit": "s"}}},
    )
    examples, labels, quarantine, *_ = collected(spark, dataset, PARTS[:1])
    expected = dict.fromkeys(("unparsable event_ts", "unparsable arrived_at", "no instant for label click"), 5)
    assert (len(examples), {part for part, *_ in quarantine}, reasons(quarantine)) == (1, set(PARTS[:1]), expected)
    assert {known for *_, known in labels} == {row(1)["time"]}
    found = profile(spark, dataset)
    assert (found.accepted, found.reasons, found.parts) == (1, expected, (PARTS[0], PARTS[0]))


def test_frames_have_the_schemas_of_the_tables(spark, tmp_path):
    dataset = shop(write(tmp_path / "day.parquet", [row(n) for n in range(3)]))
    frames = ingest_frames(spark, dataset, PARTS[:1])
    for frame, schema in [
        (frames.examples, examples_schema(dataset)),
        (frames.labels, LABELS),
        (frames.quarantine, QUARANTINE),
    ]:
        wanted = [(f.name, f.dataType) for f in from_arrow_schema(schema)]
        assert [(f.name, f.dataType) for f in frame.schema] == wanted
    assert frames.past_events is None
    frames.release()


def test_null_features_and_null_labels_are_no_faults(spark, tmp_path):
    rows = [row(1, price=None, category=None), row(2, click=None), row(3)]
    examples, labels, quarantine, *_ = collected(spark, shop(write(tmp_path / "d.parquet", rows)), PARTS[:1])
    assert (len(examples), quarantine) == (3, [])
    assert Counter(vertical for _, _, vertical, _, _ in labels) == {"all": 2, "cheap": 1}


def test_labels_go_to_every_vertical_whose_filter_a_row_meets_and_are_known_after_delay_and_arrival(spark, tmp_path):
    late = row(3, arrived=START + 5 * 3_600_000)
    rows = [row(2), late, row(7)]
    _, labels, *_ = collected(spark, shop(write(tmp_path / "d.parquet", rows)), PARTS[:1])
    by_vertical = {
        v: sorted((label, at - START) for _, _, vert, label, at in labels if vert == v) for v in ("all", "cheap")
    }
    two_hours, five_hours = 7_200_000, 18_000_000
    assert by_vertical["all"] == sorted([(0, 2000 + two_hours), (1, five_hours), (1, 7000 + two_hours)])
    assert by_vertical["cheap"] == sorted([(0, 2000 + two_hours), (1, five_hours)])


def test_a_row_sent_again_unchanged_keeps_its_first_arrival(spark, tmp_path):
    first, again = row(1, price=3.0), row(1, price=3.0, arrived=START + 5 * 3_600_000)
    path = write(tmp_path / "d.parquet", [again, first, first, row(2)])
    examples, labels, quarantine, rejected, _ = collected(spark, shop(path), PARTS[:1])
    assert sorted(example[5] - START for example in examples) == [1000, 2000]
    assert len(labels) == 4
    assert (reasons(quarantine), rejected) == ({"duplicate": 2}, {PARTS[0]: 2})


def test_a_correction_counts_from_its_own_arrival_on_and_so_do_its_labels(spark, tmp_path):
    first, later = row(1, price=3.0, click=None), START + 5 * 3_600_000
    corrected = row(1, price=4.0, click=1.0, arrived=later)
    again = row(1, price=4.0, click=1.0, arrived=later + 1)
    for place, order in enumerate(([first, corrected, again, first], [again, corrected, first, first])):
        path = write(tmp_path / f"{place}.parquet", order)
        examples, labels, quarantine, rejected, _ = collected(spark, shop(path), PARTS[:1])
        assert [(example[5], example[-1]) for example in examples] == [(later, 4.0)]
        assert {(label, known) for *_, label, known in labels} == {(1, later)}
        assert reasons(quarantine) == {"corrected by a later row": 1, "duplicate": 2}
        assert rejected == {PARTS[0]: 3}
        assert sorted(json.loads(text)["price"] for *_, text in quarantine) == [3.0, 3.0, 4.0]


def test_a_correction_that_is_taken_back_counts_from_when_it_was(spark, tmp_path):
    hour = 3_600_000
    told = [row(1, price=price, arrived=START + n * hour) for n, price in ((1, 3.0), (2, 4.0), (3, 3.0))]
    examples, _, quarantine, *_ = collected(spark, shop(write(tmp_path / "d.parquet", told)), PARTS[:1])
    assert [(example[5] - START, example[-1]) for example in examples] == [(3 * hour, 3.0)]
    assert reasons(quarantine) == {"corrected by a later row": 1, "duplicate": 1}


def test_corrected_rows_are_no_bad_rows(spark, tmp_path):
    rows = [row(n, price=price, arrived=START + n * 1000 + late) for n in range(9) for price, late in ((1, 0), (2, 9))]
    path = write(tmp_path / "d.parquet", rows)
    examples, _, _, rejected, _ = collected(spark, shop(path, checks={"max_reject_share": 0.0}), PARTS[:1])
    assert {example[-1] for example in examples} == {2.0}
    assert rejected == {PARTS[0]: 9}
    found = profile(spark, shop(path))
    assert (found.accepted, found.rejected, found.reasons) == (9, 0, {"corrected by a later row": 9})


def test_a_filter_leaves_out_only_rows_for_which_it_is_false(spark, tmp_path):
    path = write(tmp_path / "d.parquet", [row(1), row(2), row(8, user=None), row(15)])
    dataset = shop(path, source={"where": "user % 7 = 1"})
    examples, _, quarantine, rejected, _ = collected(spark, dataset, PARTS[:1])
    assert len(examples) == 2
    assert (reasons(quarantine), rejected) == ({"null user": 1}, {PARTS[0]: 1})


def test_a_range_equals_its_partitions_singly_rejects_included(spark, tmp_path):
    parts = PARTS[:2]
    for day in range(2):
        rows = [row(n, day) for n in range(10)]
        rows += [row(90, day, user=None), row(91, day, time=None), row(3, day)]
        write(tmp_path / f"{day}.parquet", rows)
    write(tmp_path / "undated.parquet", [row(1, time=None)])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is no Parquet file")
    dataset = shop(tmp_path)
    together = collected(spark, dataset, parts)
    singly = [collected(spark, dataset, [part]) for part in parts]
    for i in range(3):
        assert together[i] == sorted((r for single in singly for r in single[i]), key=repr)
    assert together[3] == {parts[0]: 5, parts[1]: 4}
    by_part = {part: {r for p, r, _, _ in together[2] if p == part} for part in parts}
    assert by_part[parts[1]] == {"null user", "null event_ts", "duplicate", "unreadable file"}


def test_rows_of_other_partitions_are_not_selected(spark, tmp_path):
    path = write(tmp_path / "d.parquet", [row(1, 0), row(2, 1), row(3, 2)])
    examples, *_ = collected(spark, shop(path), [PARTS[1]])
    assert [e[0] for e in examples] == [PARTS[1]]


def test_a_truncated_file_is_named_and_the_others_pass(spark, tmp_path):
    write(tmp_path / "a.parquet", [row(n) for n in range(50)])
    whole = write(tmp_path / "b.parquet", [row(60 + n) for n in range(50)]).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.parquet").write_bytes(b"")
    examples, _, quarantine, rejected, _ = collected(spark, shop(tmp_path), PARTS[:1])
    assert len(examples) == 50
    assert reasons(quarantine) == {"unreadable file": 2}
    assert {file for _, _, file, _ in quarantine} == {str(tmp_path / "b.parquet"), str(tmp_path / "empty.parquet")}
    assert all(why for *_, why in quarantine)
    assert rejected == {PARTS[0]: 2}


def test_a_file_that_breaks_while_its_rows_are_read_is_named_and_the_others_pass(spark, tmp_path):
    write(tmp_path / "a.parquet", [row(n) for n in range(50)])
    path = write(tmp_path / "b.parquet", [row(60 + n) for n in range(50)])
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    examples, _, quarantine, *_ = collected(spark, shop(tmp_path), PARTS[:1])
    assert len(examples) == 50
    assert [(reason, file) for _, reason, file, _ in quarantine] == [("unreadable file", str(path))]


def test_too_many_bad_files_fail_with_their_names(spark, tmp_path):
    write(tmp_path / "a.parquet", [row(1)])
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(BadDataError, match=r"1 of 2 files cannot be read, allowed are 5.0%: .*b\.parquet"):
        ingest_frames(spark, shop(tmp_path, checks={"max_reject_share": 0.05}), PARTS[:1])


def test_too_many_bad_rows_fail_with_the_counts_by_reason(spark, tmp_path):
    rows = [row(n) for n in range(20)] + [row(30, user=None), row(31, user=None), row(32, price=math.inf)]
    path = write(tmp_path / "d.parquet", rows)
    with pytest.raises(BadDataError, match=r"3 of 23 rows .* allowed are 10.0%: null user 2, non-finite price 1;"):
        ingest_frames(spark, shop(path, checks={"max_reject_share": 0.1}), PARTS[:1])


def test_a_changed_type_stops_naming_column_expected_and_got(spark, tmp_path):
    write(tmp_path / "a.parquet", [row(1)])
    changed = SCHEMA.set(0, pa.field("user", pa.string()))
    write(tmp_path / "b.parquet", [row(2, user="two")], changed)
    with pytest.raises(BadDataError, match=r"b\.parquet: column user has another type: expected bigint, got string"):
        ingest_frames(spark, shop(tmp_path), PARTS[:1])


def test_an_expected_type_is_held_to(spark, tmp_path):
    path = write(tmp_path / "a.parquet", [row(1)])
    expected = {name: "bigint" for name in ("user", "item", "time", "arrived")}
    with pytest.raises(BadDataError, match=r"column item has another type: expected bigint, got int"):
        ingest_frames(spark, shop(path, source={"expected_columns": expected}), PARTS[:1])


def test_a_folders_value_that_is_not_of_the_expected_type_stops_by_name(spark, tmp_path):
    for store in ("1", "north"):
        write(tmp_path / f"store={store}" / "a.parquet", [row(1)])
    expected = {"user": "bigint", "item": "int", "time": "bigint", "arrived": "bigint", "price": "double"}
    expected |= {"category": "string", "click": "double", "share": "double", "store": "bigint"}
    with pytest.raises(BadDataError, match=r"shop: the source cannot be read: .*north"):
        ingest_frames(spark, shop(tmp_path, source={"expected_columns": expected}), PARTS[:1])


def test_a_missing_column_stops_by_name(spark, tmp_path):
    write(tmp_path / "a.parquet", [row(1)])
    write(tmp_path / "b.parquet", [row(2)], SCHEMA.remove(SCHEMA.get_field_index("click")))
    with pytest.raises(BadDataError, match=r"b\.parquet: column click is missing; expected double"):
        ingest_frames(spark, shop(tmp_path), PARTS[:1])


def test_an_unknown_column_is_a_named_warning(spark, tmp_path):
    path = write(tmp_path / "a.parquet", [row(1) | {"surprise": 1}], SCHEMA.append(pa.field("surprise", pa.int32())))
    expected = {"user": "bigint", "item": "int", "time": "long", "arrived": "bigint", "price": "double"}
    expected |= {"category": "string", "click": "double", "share": "double"}
    examples, _, _, _, warnings = collected(spark, shop(path, source={"expected_columns": expected}), PARTS[:1])
    assert len(examples) == 1
    assert len(warnings) == 1
    assert "['surprise']" in warnings[0]


def test_an_empty_partition_and_an_empty_folder_are_valid(spark, tmp_path):
    path = write(tmp_path / "full" / "a.parquet", [row(1)])
    assert collected(spark, shop(path), [PARTS[2]])[:4] == ([], [], [], {})
    (tmp_path / "empty").mkdir()
    assert collected(spark, shop(tmp_path / "empty"), PARTS[:1])[:4] == ([], [], [], {})
    write(tmp_path / "none.parquet", [])
    assert collected(spark, shop(tmp_path / "none.parquet"), PARTS[:1])[:4] == ([], [], [], {})


def test_a_wrong_expression_names_field_sql_and_columns(spark, tmp_path):
    path = write(tmp_path / "a.parquet", [row(1)])
    features = {
        "price": {"value": "prize + 1", "kind": "numeric"},
        "category": {"value": "category", "kind": "categorical"},
    }
    with pytest.raises(ContractError, match=r"features\.price\.value: 'prize \+ 1' .*user, item, time"):
        ingest_frames(spark, shop(path, features=features), PARTS[:1])


def test_a_vertical_filters_examples_not_source_columns(spark, tmp_path):
    path = write(tmp_path / "a.parquet", [row(1)])
    verticals = {"all": {"label": "click", "where": "arrived > 0", "features": ["price"]}}
    with pytest.raises(ContractError, match=r"verticals\.all\.where: 'arrived > 0'"):
        ingest_frames(spark, shop(path, verticals=verticals), PARTS[:1])


def test_parts_are_one_contiguous_range(spark, tmp_path):
    path = write(tmp_path / "a.parquet", [row(1)])
    with pytest.raises(ContractError, match="one contiguous, ascending range"):
        ingest_frames(spark, shop(path), [PARTS[0], PARTS[2]])


def test_a_source_without_any_readable_time_says_so(spark, tmp_path):
    path = write(tmp_path / "a.parquet", [row(1, time=None)])
    with pytest.raises(BadDataError, match="event_ts: no row of the source has a readable event time"):
        ingest_frames(spark, shop(path), PARTS[:1])


def test_source_parts_are_the_first_and_last_partition_with_good_rows(spark, tmp_path):
    path = write(tmp_path / "a.parquet", [row(1, 2), row(1, 0), row(1, -3, user=None)])
    assert source_parts(spark, shop(path)) == (PARTS[0], PARTS[2])


def test_reading_one_partition_skips_row_groups_of_others(spark, tmp_path):
    """Parquet prunes by statistics: a row group of another day whose pages are destroyed is never touched."""
    rows = pa.Table.from_pylist([row(n, day) for day in range(3) for n in range(40)], schema=SCHEMA)
    path = tmp_path / "sorted.parquet"
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for day in range(3):
            writer.write_table(rows.slice(40 * day, 40))
    first = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[first.dictionary_page_offset or first.data_page_offset : first.data_page_offset + 40] = bytes(
        first.data_page_offset + 40 - (first.dictionary_page_offset or first.data_page_offset)
    )
    path.write_bytes(data)
    examples, _, quarantine, *_ = collected(spark, shop(path), [PARTS[2]])
    assert (len(examples), quarantine) == (40, [])
    assert len({e[3] for e in examples}) == 5
