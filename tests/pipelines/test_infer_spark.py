from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyspark.resource import ResourceInformation

from feature_store.schemas import fm_outputs_schema
from feature_store.spaces import SpaceRecord
from models.errors import ArtifactError
from models.fm_score import MODEL_BATCH, FmScorer
from models.fm_train import train_fm
from models.scorer import load_scorer
from pipelines import infer_spark
from pipelines.infer_spark import (
    BUCKET_ROWS,
    GROUP,
    ScoreSettings,
    bucket_count,
    fm_outputs_frame,
    model_sized,
    plan_groups,
)
from tests.conftest import make_dataset
from tests.models.fm_world import CONFIG, HEADS, SPECS, window

DATASET = make_dataset(
    features={"quality": {"value": "quality", "kind": "numeric"}},
    labels={"click": {"value": "click"}},
    event_lists=[{"name": "clicks", "key": ["user"], "entity": "item", "length": 5}],
    fm_features=["user", "item", "quality", "clicks"],
    histories={"keys": {"user": ["user"]}},
    verticals={head: {"label": "click", "features": ["item"]} for head in HEADS},
)
ROWS = window(rows=BUCKET_ROWS + 10_000)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return train_fm(CONFIG, SPECS, HEADS, window(seed=1), window(seed=2, start=10_000), tmp_path_factory.mktemp("fm"))


@pytest.fixture(scope="module")
def inputs(spark, tmp_path_factory):
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("inputs") / "rows.parquet"
    shuffled = ROWS.inputs.take(np.random.default_rng(0).permutation(ROWS.inputs.num_rows))
    pq.write_table(shuffled, path)
    return spark.read.parquet(str(path))


def space(model, digest=None):
    return space_of(model.path, digest or model.digest)


def space_of(path, digest):
    return SpaceRecord(
        space_id="fm-test",
        inputs_id="in-test",
        fm_train_cutoff=0,
        training_lag_ms=0,
        heads=HEADS,
        dim=8,
        bits=4,
        captures=["mlp.0"],
        model_path=path,
        model_digest=digest,
        run_id="",
        state="active",
    )


def in_order(frame):
    return pa.table(frame.toArrow()).sort_by("example_id")


def test_bytes_do_not_depend_on_ranges_spark_partitions_or_arrow_batches(spark, inputs, model):
    whole = in_order(fm_outputs_frame(spark, DATASET, inputs, space(model), model.path))
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "700")
    try:
        parts = [
            in_order(
                fm_outputs_frame(
                    spark, DATASET, inputs.where(f"part = '{part}'").repartition(3), space(model), model.path
                )
            )
            for part in ("2026-01-02", "2026-01-01")
        ]
    finally:
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "4096")
    assert whole.num_rows == ROWS.inputs.num_rows
    assert whole.equals(pa.concat_tables(parts).sort_by("example_id"))


def test_rows_are_those_of_the_scorer_and_keep_what_the_table_needs(spark, inputs, model):
    frame = fm_outputs_frame(spark, DATASET, inputs.where("example_id < 3000"), space(model), model.path)
    got = in_order(frame)
    expected = ROWS.inputs.filter(pa.compute.less(ROWS.inputs["example_id"], 3000)).sort_by("example_id")
    codes, logits = FmScorer.load(model.path, model.digest).score(expected)
    assert np.allclose(np.stack(got["logits"].to_numpy()), logits, atol=1e-5)
    assert np.mean([z == code.tobytes() for z, code in zip(got["z"].to_pylist(), codes, strict=True)]) > 0.99
    for name in ("part", "example_id", "user", "item", "event_ts", "arrived_at"):
        assert got[name].to_pylist() == expected[name].to_pylist()
    assert set(got["space_id"].to_pylist()) == {"fm-test"}


def test_a_wrong_digest_stops_the_job_and_names_both(spark, inputs, model):
    frame = fm_outputs_frame(spark, DATASET, inputs, space(model, digest="0" * 64), model.path)
    with pytest.raises(Exception, match=f"digest is {model.digest}, {'0' * 64} was recorded"):
        frame.collect()


@pytest.fixture
def loads(monkeypatch):
    """What this process loads as FM from now on, as a worker that has just started: (path, digest, device)."""
    found = []

    def load(path, digest, *, threads, device):
        found.append((path, digest, device))
        return load_scorer(path, digest, threads=threads, device=device)

    monkeypatch.setattr(infer_spark, "_LOADED", {})
    monkeypatch.setattr(infer_spark, "load_scorer", load)
    monkeypatch.setattr(infer_spark, "_device", lambda: "cpu")
    return found


def score(settings):
    rows = ROWS.inputs.slice(0, 40).sort_by("example_id")
    rows = rows.append_column(GROUP, pa.array(np.zeros(len(rows), np.int32)))
    return pa.Table.from_batches(infer_spark.score_batches(rows.combine_chunks().to_batches(), settings))


def settings_of(model, **changes):
    own = {"path": model.path, "digest": model.digest, "shipped": False, "threads": 1}
    return ScoreSettings(**own | changes, space_id="fm-test", schema=fm_outputs_schema(DATASET))


def test_a_worker_loads_the_model_once_for_all_of_its_tasks(model, loads):
    first = score(settings_of(model))
    assert score(settings_of(model)).equals(first)
    assert loads == [(model.path, model.digest, "cpu")]


def test_another_digest_loads_again_and_only_the_newest_model_stays(model, loads, tmp_path):
    other = train_fm(CONFIG, SPECS, HEADS, window(seed=3), window(seed=2, start=10_000), tmp_path)
    assert other.digest != model.digest
    outputs = [score(settings_of(of)) for of in (model, other, model)]
    assert [digest for _, digest, _ in loads] == [model.digest, other.digest, model.digest]
    assert outputs[0].equals(outputs[2])
    assert not outputs[0].equals(outputs[1])


def test_a_file_of_another_digest_stops_even_where_its_path_was_loaded_before(model, loads):
    score(settings_of(model))
    with pytest.raises(ArtifactError, match=f"digest is {model.digest}, {'0' * 64} was recorded"):
        score(settings_of(model, digest="0" * 64))


@pytest.mark.parametrize(
    ("cuda", "assigned", "device"),
    [(True, ["3"], "cuda:3"), (True, None, "cuda:0"), (False, ["3"], "cpu")],
)
def test_the_model_goes_to_the_gpu_that_spark_gave_the_task(monkeypatch, cuda, assigned, device):
    resources = {} if assigned is None else {"gpu": ResourceInformation("gpu", assigned)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("pyspark.TaskContext.get", lambda: SimpleNamespace(resources=lambda: resources))
    assert infer_spark._device() == device


def test_no_rows_give_no_rows(spark, inputs, model):
    assert fm_outputs_frame(spark, DATASET, inputs.where("false"), space(model), model.path).count() == 0


@given(st.lists(st.integers(1, 60), max_size=6), st.integers(1, 50), st.integers(1, 40))
def test_runs_hold_one_group_and_are_full_except_at_its_end(sizes, batch_rows, run):
    group = np.repeat(np.arange(len(sizes)), sizes)
    rows = pa.record_batch({GROUP: pa.array(group, pa.int32()), "row": pa.array(np.arange(len(group)))})
    batches = [rows.slice(start, batch_rows) for start in range(0, len(group), batch_rows)]
    runs = list(model_sized(batches, run))
    assert [value for r in runs for value in r.column("row").to_pylist()] == list(range(len(group)))
    expected = [min(run, size - start) for size in sizes for start in range(0, size, run)]
    assert [r.num_rows for r in runs] == expected
    assert all(len(set(r.column(GROUP).to_pylist())) == 1 for r in runs)


def test_a_big_part_spreads_over_tasks_and_small_parts_share_one():
    tasks, plan = plan_groups({"2026-01-01": 1_000_000}, cores=2)
    assert tasks == 2 * infer_spark.TASKS_PER_CORE
    assert plan[0][1] == bucket_count(1_000_000) == -(-1_000_000 // BUCKET_ROWS)
    tasks, plan = plan_groups({f"2026-01-01T{hour:02d}": 100 for hour in range(24)}, cores=2)
    assert (tasks, [row[1] for row in plan]) == (1, [1] * 24)
    assert [row[3] for row in plan] == [100 * hour for hour in range(24)]
    assert MODEL_BATCH <= BUCKET_ROWS
