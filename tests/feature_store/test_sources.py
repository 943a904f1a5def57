"""Each adapter part by itself: paths, formats, expressions, explode, joins, past events."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F
from pyspark.sql import types as T

from feature_store.clocks import DAY_MS, HOUR_MS, MINUTE_MS, PartitionClock
from feature_store.config import ExplodeConfig, InstantColumn, JoinConfig, ReadConfig
from feature_store.errors import BadDataError, ContractError
from feature_store.ingest import ingest_frames
from feature_store.profile import profile
from feature_store.sources.explode import explode_column, explode_together
from feature_store.sources.expressions import id_column, instant_column, lenient, part_column
from feature_store.sources.joins import join_side_tables
from feature_store.sources.paths import expand, find_files
from feature_store.sources.reader import read_source
from feature_store.sources.span import Span, restrict
from tests.feature_store.shop_source import PARTS, START, row, shop, write


def parquet(*paths: object) -> ReadConfig:
    return ReadConfig(format="parquet", paths=[str(path) for path in paths])


def frames_of(spark, dataset, parts=PARTS[:1]):
    frames = ingest_frames(spark, dataset, parts)
    try:
        return frames.examples.collect(), frames.quarantine.collect()
    finally:
        frames.release()


def test_the_data_root_is_a_setting_with_a_default(monkeypatch, tmp_path):
    monkeypatch.setenv("LOOPFM_DATA", str(tmp_path))
    assert expand("${LOOPFM_DATA}/clicks") == f"{tmp_path}/clicks"
    monkeypatch.delenv("LOOPFM_DATA")
    assert expand("${LOOPFM_DATA}/clicks") == str(Path("../shared/data/clicks").absolute().resolve())
    assert expand("s3a://bucket/clicks") == "s3a://bucket/clicks"


def test_a_file_a_folder_a_glob_and_a_uri_are_found_hidden_files_are_not(spark, tmp_path):
    one, two = write(tmp_path / "x" / "1.parquet", [row(1)]), write(tmp_path / "y" / "deep" / "2.parquet", [row(2)])
    write(tmp_path / "_temporary" / "3.parquet", [row(3)])
    write(tmp_path / "x" / ".hidden.parquet", [row(4)])
    for path, files in [
        (one, [one]),
        (tmp_path, [one, two]),
        (f"{tmp_path}/*/1.parquet", [one]),
        (f"file://{tmp_path}/x", [one]),
    ]:
        assert find_files(spark, str(path)).files == [f"file:{file}" for file in files]


def test_a_path_that_is_not_there_says_what_to_set(spark, monkeypatch, tmp_path):
    monkeypatch.setenv("LOOPFM_DATA", str(tmp_path))
    with pytest.raises(ContractError, match=r"source path \$\{LOOPFM_DATA\}/none: nothing at .*set LOOPFM_DATA to"):
        find_files(spark, "${LOOPFM_DATA}/none")


def test_folders_named_by_value_are_columns(spark, tmp_path):
    for day in ("2026-01-01", "2026-01-02"):
        write(tmp_path / f"day={day}" / "a.parquet", [row(1)])
    raw = read_source(spark, parquet(tmp_path), None)
    assert "day" in raw.columns
    assert sorted(str(r[0]) for r in raw.frame.select("day").collect()) == ["2026-01-01", "2026-01-02"]
    typed = read_source(spark, parquet(tmp_path), {"user": "bigint", "day": "string"})
    assert {"user": "bigint", "day": "string"}.items() <= dict(typed.frame.dtypes).items()
    assert (typed.columns, typed.warnings[1:]) == (["user", "day"], [])


def test_delta_is_read_at_a_version(spark, tmp_path):
    path = str(tmp_path / "table")
    for number in range(2):
        frame = spark.createDataFrame(
            [row(number)],
            "user long, item int, time long, arrived long, price double, category string, click double, share double",
        )
        frame.write.format("delta").mode("append").save(path)
    for version, users in ((None, [0, 1]), (0, [0])):
        read = {"format": "delta", "paths": [path], "delta_version": version}
        examples, quarantine = frames_of(spark, shop(path, source={"read": read}))
        assert sorted(e["user"] for e in examples) == users
        assert quarantine == []
    with pytest.raises(ContractError, match="no Delta table"):
        read_source(spark, ReadConfig(format="delta", paths=[str(tmp_path / "none")]), None)


CSV = {"user": "bigint", "item": "int", "price": "double"}


def csv_shop(path, **changes):
    source = {"read": {"format": "csv", "paths": [str(path)]}, "expected_columns": changes.pop("expected", None)}
    return shop(path, source=source, event_ts={"value": "time", "unit": "iso"}, arrived_at=None, weight=None, **changes)


def test_csv_lines_that_do_not_fit_are_set_aside_and_columns_may_change_places(spark, tmp_path):
    (tmp_path / "a.csv").write_text(
        "user,item,time,price,category,click\n"
        "1,2,2026-01-01T00:00:01Z,3.5,c1,1\n"
        "one,2,2026-01-01T00:00:02Z,3.5,c1,1\n"
        "1,2,2026-01-01T00:00:03Z,cheap,c1,1\n"
        "1,2,yesterday,3.5,c1,1\n"
        "1,2,,3.5,c1,1\n"
        "1,2,2026-01-01T00:00:04Z\n"
        "1,2,2026-01-01T02:00:05+02:00,3.5,c1,maybe\n"
    )
    (tmp_path / "b.csv").write_text("click,category,price,time,item,user\n0,c1,1.5,2026-01-01 00:00:09,8,9\n")
    expected = CSV | dict.fromkeys(("time", "category", "click"), "string")
    examples, quarantine = frames_of(spark, csv_shop(tmp_path, expected=expected))
    assert sorted((e["user"], e["item"], e["event_ts"] - START, e["price"]) for e in examples) == [
        (1, 2, 1000, 3.5),
        (9, 8, 9000, 1.5),
    ]
    assert sorted(q["reason"] for q in quarantine) == [
        "label click outside {0, 1}",
        "malformed row",
        "malformed row",
        "malformed row",
        "null event_ts",
        "unparsable event_ts",
    ]


def test_csv_without_declared_types_is_text_and_sql_parses_it(spark, tmp_path):
    (tmp_path / "a.csv").write_text(
        "who,item,time,price,category,stars\nann,2,1767225601,3.5,c1,4\nbob,2,1767225602,x,c1,3\n"
    )
    dataset = csv_shop(
        tmp_path / "a.csv",
        entities={"user": "who", "item": "int(item)"},
        labels={"click": {"value": "double(stars) >= 4"}},
    ).model_copy(update={"event_ts": shop(tmp_path).event_ts.model_copy(update={"unit": "s"})})
    examples, quarantine = frames_of(spark, dataset)
    hashed = spark.sql("select xxhash64('ann') id").collect()[0]["id"]
    assert [(e["user"], e["item"], e["event_ts"]) for e in examples] == [(hashed, 2, START + 1000)]
    assert [q["reason"] for q in quarantine] == ["unparsable price"]


def test_a_truncated_compressed_csv_is_named(spark, tmp_path):
    lines = "".join(f"{n},2,2026-01-01T00:00:01Z,3.5,c{n * 7919},1\n" for n in range(3000))
    data = gzip.compress(("user,item,time,price,category,click\n" + lines).encode())
    (tmp_path / "a.csv.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "b.csv").write_text("user,item,time,price,category,click\n1,2,2026-01-01T00:00:01Z,3.5,c1,1\n")
    examples, quarantine = frames_of(spark, csv_shop(tmp_path))
    assert len(examples) == 1
    assert [(q["reason"], Path(q["source_file"]).name) for q in quarantine] == [("unreadable file", "a.csv.gz")]


def test_ids_keep_integers_and_hash_the_rest(spark):
    schema = "i int, b boolean, d decimal(20,0), s string, f double, n string"
    frame = spark.createDataFrame(
        [(7, True, Decimal(9), "x", 1.5, None), (None, None, None, None, float("nan"), None)], schema
    )
    ids = frame.select(*(id_column(F.col(f.name), f.dataType).alias(f.name) for f in frame.schema)).collect()
    hashed = frame.select(F.xxhash64("s"), F.xxhash64("f")).collect()[0]
    assert tuple(ids[0]) == (7, 1, 9, hashed[0], hashed[1], None)
    assert tuple(ids[1]) == (None,) * 6


NO_NUMBERS = ("NaN", "Infinity", "-Infinity")


def test_instants_of_every_unit_are_milliseconds_and_unreadable_ones_null(spark):
    cases = [
        ("1767225600", "string", "s", START),
        ("1767225600.25", "double", "s", START + 250),
        ("1767225600123", "bigint", "ms", START + 123),
        ("'2026-01-01T00:00:00.5Z'", "string", "iso", START + 500),
        ("'2026-01-01 01:00:00+01:00'", "string", "iso", START),
        ("'2026-01-01'", "string", "iso", START),
        ("'2026-13-01'", "string", "iso", None),
        ("'soon'", "string", "ms", None),
        ("'2026-01-01 00:00:00'", "timestamp_ntz", "timestamp", START),
        ("'2026-01-01 00:00:00Z'", "timestamp", "timestamp", START),
        ("'2026-01-01'", "date", "timestamp", START),
        ("0", "bigint", "s", 0),
        ("253402300799999", "bigint", "ms", 253_402_300_799_999),
        *(
            (f"'{text}'", kind, unit, None)
            for text in NO_NUMBERS
            for kind in ("double", "float")
            for unit in ("s", "ms")
        ),
        *((f"'{text}'", "string", unit, None) for text in NO_NUMBERS for unit in ("s", "ms")),
        *((number, kind, "ms", None) for number in ("-1", "253402300800000", "1e18") for kind in ("bigint", "double")),
        *((number, "decimal(38, 0)", "s", None) for number in ("-1", "253402300800", "1e30")),
        ("1767225600000", "bigint", "s", None),
        ("-1", "int", "s", None),
        *((f"'{text}'", "string", "iso", None) for text in ("1969-12-31", "+10000-01-01")),
        ("'1969-12-31 23:59:59.999'", "timestamp_ntz", "timestamp", None),
    ]
    with lenient(spark):
        raw = spark.sql(
            "select " + ", ".join(f"cast({sql} as {kind}) c{i}" for i, (sql, kind, _, _) in enumerate(cases))
        )
        kinds = [field.dataType for field in raw.schema]
        columns = [instant_column(F.col(f"c{i}"), kinds[i], unit, "t") for i, (_, _, unit, _) in enumerate(cases)]
        read = raw.select(*columns).collect()[0]
    assert [(*case[:3], got) for case, got in zip(cases, read, strict=True)] == cases


def test_a_span_keeps_what_is_no_instant_though_its_bounds_stand_on_the_column_itself(spark):
    end_of_time, day = 253_402_300_800, Span(START, START + DAY_MS)
    cases = [
        ("bigint", "ms", [-1, 1000 * end_of_time], START),
        ("bigint", "s", [-1, end_of_time], START // 1000),
        ("int", "s", [-1, -(2**31)], START // 1000),
        ("timestamp", "timestamp", [-1, end_of_time], START // 1000),
        ("timestamp_ntz", "timestamp", [-1, end_of_time], START // 1000),
    ]
    with lenient(spark):
        for kind, unit, wrong, good in cases:
            cast = f"cast(timestamp_seconds(n) as {kind})" if unit == "timestamp" else f"cast(n as {kind})"
            frame = spark.createDataFrame([(n,) for n in (*wrong, good, 2 * good // 3)], "n long").selectExpr(
                "n", f"{cast} t"
            )
            kept = restrict(frame, InstantColumn(value="t", unit=unit), day, "event_ts.value")
            assert [r.n for r in kept.select("n").collect()] == [*wrong, good], (kind, unit)


def test_a_unit_that_does_not_fit_the_type_is_an_error():
    for kind, unit, allowed in [
        (T.LongType(), "timestamp", r"\['s', 'ms'\]"),
        (T.TimestampType(), "ms", r"\['timestamp'\]"),
        (T.StringType(), "timestamp", r"\['iso', 's', 'ms'\]"),
    ]:
        with pytest.raises(ContractError, match=f"event_ts: unit {unit} does not fit type .*; allowed: {allowed}"):
            instant_column(F.lit(0), kind, unit, "event_ts")


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([10 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS]),
    st.sampled_from([0, 30 * MINUTE_MS, 5 * HOUR_MS]),
    st.lists(st.integers(0, 4_000_000_000_000), min_size=1, max_size=20),
)
def test_part_column_is_the_clock(spark, grain, offset, instants):
    clock = PartitionClock(grain, offset)
    instants += [clock.floor(instants[0]), clock.close(instants[0]) - 1]
    with lenient(spark):
        frame = spark.createDataFrame([(i,) for i in instants], "t long")
        got = [r[0] for r in frame.select(part_column(clock, F.col("t"))).collect()]
    assert got == [clock.part_of(i) for i in instants]


def test_lenient_gives_the_settings_back(spark):
    before = spark.conf.get("spark.sql.ansi.enabled")

    def fail_inside() -> None:
        with lenient(spark):
            assert spark.conf.get("spark.sql.ansi.enabled") == "false"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert spark.conf.get("spark.sql.ansi.enabled") == before


def test_explode_keeps_positions_and_rows_without_elements(spark):
    frame = spark.createDataFrame([(1, [10, 11]), (2, []), (3, None)], "id int, items array<int>")
    exploded = explode_column(frame, ExplodeConfig(column="items", name="item"))
    assert sorted(((r.id, r.position, r.item) for r in exploded.collect()), key=repr) == [
        (1, 0, 10),
        (1, 1, 11),
        (2, None, None),
        (3, None, None),
    ]
    with pytest.raises(ContractError, match=r"source\.explode\.column: got 'id'; allowed: a list column .*items"):
        explode_column(frame, ExplodeConfig(column="id", name="item"))


def test_lists_of_equal_length_explode_together(spark):
    frame = spark.createDataFrame([(1, [10, 11], ["a", "b"])], "id int, items array<int>, at array<string>")
    assert [tuple(r) for r in explode_together(frame, ["items", "at"]).collect()] == [(1, 10, "a"), (1, 11, "b")]


def test_exploded_impressions_become_examples_with_their_labels(spark, tmp_path):
    schema = pa.schema(
        [
            ("user", pa.int64()),
            ("time", pa.int64()),
            ("shown", pa.list_(pa.int64())),
            ("clicked", pa.list_(pa.int64())),
            ("impression", pa.string()),
        ]
    )
    rows = [
        {"user": 1, "time": START, "shown": [5, 6, 6], "clicked": [6], "impression": "a"},
        {"user": 2, "time": START, "shown": None, "clicked": [6], "impression": "b"},
    ]
    path = write(tmp_path / "i.parquet", rows, schema)
    dataset = shop(
        path,
        source={"explode": {"column": "shown", "name": "candidate"}},
        entities={"user": "user", "item": "candidate"},
        arrived_at=None,
        weight=None,
        impression_id="impression",
        labels={"click": {"value": "array_contains(clicked, candidate)"}},
        features={
            "price": {"value": "size(shown)", "kind": "numeric"},
            "shown_ids": {"value": "shown", "kind": "categorical_list"},
        },
        fm_features=["price"],
    )
    frames = ingest_frames(spark, dataset, PARTS[:1])
    examples, labels = frames.examples.collect(), frames.labels.where("vertical = 'all'").collect()
    quarantine = frames.quarantine.collect()
    frames.release()
    assert sorted(e["item"] for e in examples) == [5, 6, 6], "the same item at two places is two examples"
    assert len({e["example_id"] for e in examples}) == 3
    assert len({e["impression_id"] for e in examples}) == 1
    assert examples[0]["shown_ids"] == [5, 6, 6]
    item_of = {e["example_id"]: e["item"] for e in examples}
    assert all(r["label"] == (item_of[r["example_id"]] == 6) for r in labels)
    assert [q["reason"] for q in quarantine] == ["null item"]


def test_numbers_in_lists_are_judged_and_a_scalar_is_no_list(spark, tmp_path):
    rows = [
        {"user": 1, "time": START, "item": 5, "prices": ["1.5", None]},
        {"user": 2, "time": START, "item": 5, "prices": ["1.5", "cheap"]},
        {"user": 3, "time": START, "item": 5, "prices": ["NaN"]},
        {"user": 4, "time": START, "item": 5, "prices": None},
    ]
    names = {"user": pa.int64(), "time": pa.int64(), "item": pa.int64(), "prices": pa.list_(pa.string())}
    path = write(tmp_path / "l.parquet", rows, pa.schema(list(names.items())))
    plain = {"arrived_at": None, "weight": None, "labels": {"click": {"value": "user % 2"}}, "fm_features": ["prices"]}
    plain |= {"entities": {"user": "user", "item": "item"}, "impression_id": None}
    plain |= {"verticals": {"all": {"label": "click", "features": ["item"]}}}
    dataset = shop(path, features={"prices": {"value": "prices", "kind": "numeric_list"}}, **plain)
    frames = ingest_frames(spark, dataset, PARTS[:1])
    kept = {row["user"]: row["prices"] for row in frames.examples.collect()}
    reasons = [row["reason"] for row in frames.quarantine.collect()]
    frames.release()
    assert kept == {1: [1.5, None], 4: None}
    assert sorted(reasons) == ["non-finite prices", "unparsable prices"]
    scalar = shop(path, features={"prices": {"value": "time", "kind": "numeric_list"}}, **plain)
    with pytest.raises(ContractError, match=r"features.prices.value: got type bigint; allowed: an array"):
        ingest_frames(spark, scalar, PARTS[:1])


def test_a_side_table_brings_columns_and_unmatched_rows_get_nulls(spark, tmp_path):
    side = tmp_path / "items.parquet"
    pq.write_table(pa.table({"id": [0, 1, 2], "brand": ["x", "y", "z"], "cost": [1.0, 2.0, 3.0]}), side)
    join = {
        "read": {"format": "parquet", "paths": [str(side)]},
        "on": {"item": "id"},
        "columns": {"margin": "cost * 10"},
    }
    dataset = shop(
        write(tmp_path / "d.parquet", [row(1), row(4)]),
        source={"joins": [join]},
        features={"price": {"value": "price", "kind": "numeric"}, "margin": {"value": "margin", "kind": "numeric"}},
        fm_features=["price", "margin"],
    )
    examples, _ = frames_of(spark, dataset)
    assert sorted(((e["item"], e["margin"]) for e in examples), key=repr) == [(1, 20.0), (4, None)]


def test_a_side_table_with_an_id_twice_is_an_error(spark, tmp_path):
    side = tmp_path / "items.parquet"
    pq.write_table(pa.table({"id": [0, 1, 1]}), side)
    join = JoinConfig(read=parquet(side), on={"item": "id"}, columns={"other": "id"})
    with pytest.raises(BadDataError, match=r"source\.joins\.0: side table .* has 1 ids more than once"):
        join_side_tables(spark, spark.range(3).withColumnRenamed("id", "item"), [join])


def past_shop(tmp_path, **changes):
    schema = pa.schema([("user", pa.int64()), ("items", pa.list_(pa.int64())), ("times", pa.list_(pa.int64()))])
    rows = [
        {"user": 1, "items": [5, 6, None], "times": [START, START + 86_400_000, START]},
        {"user": 1, "items": [5], "times": [START]},
    ]
    past = {
        "read": {"format": "parquet", "paths": [str(write(tmp_path / "past" / "h.parquet", rows, schema))]},
        "explode": ["items", "times"],
        "entities": {"user": "user", "item": "items"},
        "event_ts": "times",
        "unit": "ms",
        "labels": {"click": "1"},
    }
    return shop(write(tmp_path / "d.parquet", [row(1, 2)]), source={"past_events": past | changes})


def test_past_events_are_exploded_together_counted_once_and_judged(spark, tmp_path):
    dataset = past_shop(tmp_path)
    frames = ingest_frames(spark, dataset, PARTS)
    events, quarantine = frames.past_events.collect(), frames.quarantine.collect()
    frames.release()
    assert sorted((e["part"], e["user"], e["item"], e["event_ts"], e["label_click"]) for e in events) == [
        (PARTS[0], 1, 5, START, 1),
        (PARTS[1], 1, 6, START + 86_400_000, 1),
    ]
    assert [q["reason"] for q in quarantine] == ["past event: null item"]
    only = ingest_frames(spark, dataset, PARTS[:1], examples=False)
    assert (only.examples.count(), only.past_events.count()) == (0, 1)
    only.release()


@pytest.mark.parametrize("read", [profile, lambda spark, dataset: ingest_frames(spark, dataset, PARTS)])
def test_past_events_whose_ids_can_never_be_those_of_examples_are_refused(spark, tmp_path, read):
    entities = {"user": "cast(user as int)", "item": "string(items)"}
    wrong = r"source\.past_events\.entities\.item: got type string; allowed: that of entities\.item, int: .* cast one"
    with pytest.raises(ContractError, match=wrong):
        read(spark, past_shop(tmp_path, entities=entities))


def test_past_events_name_what_they_do_not_know(spark, tmp_path):
    with pytest.raises(ContractError, match=r"source\.past_events: \['like'\] are no entities or labels of shop"):
        ingest_frames(spark, past_shop(tmp_path, labels={"like": "1"}), PARTS)


def test_times_are_utc_whatever_the_session(spark, tmp_path):
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    schema = pa.schema(
        [("user", pa.int64()), ("item", pa.int64()), ("naive", pa.timestamp("us")), ("click", pa.int8())]
    )
    path = write(tmp_path / "d.parquet", [{"user": 1, "item": 1, "naive": at.replace(tzinfo=None), "click": 1}], schema)
    dataset = shop(
        path,
        event_ts={"value": "naive"},
        arrived_at=None,
        weight=None,
        features={"price": {"value": "hour(naive)", "kind": "numeric"}},
        fm_features=["price"],
    )
    zone = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    try:
        examples, _ = frames_of(spark, dataset)
    finally:
        spark.conf.set("spark.sql.session.timeZone", zone)
    assert (examples[0]["event_ts"], examples[0]["price"]) == (int(at.timestamp() * 1000), 12.0)
