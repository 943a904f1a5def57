"""Serving's side: a champion from the registry, exported histories, and no FM anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.clocks import HOUR_MS
from pipelines.errors import StepError
from pipelines.evaluate import registered_scores
from pipelines.features import write_features
from pipelines.ingest import LABELS
from pipelines.predict import export, predict
from pipelines.registry import CHAMPION
from pipelines.scoring import labelled_rows
from pipelines.step import write_table
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

PART = "2026-01-07"


def by_id(path: Path) -> dict[int, float]:
    rows = pq.read_table(path)
    return dict(zip(rows["example_id"].to_pylist(), rows["p"].to_pylist(), strict=True))


@pytest.fixture
def without_fm(loop: Loop) -> Loop:
    """The loop with every file of its FM moved away while the test runs."""
    run_id = loop.result.spaces[0].run_id
    models = [loop.root / "artifacts" / "demo" / run_id, loop.root / "demo" / "scratch" / "fm"]
    held = [(path, loop.root / f"held-{place}") for place, path in enumerate(models) if path.exists()]
    assert held
    for path, away in held:
        shutil.move(path, away)
    yield loop
    for path, away in held:
        shutil.move(away, path)


def test_exported_histories_give_the_offline_score(without_fm: Loop, tmp_path: Path) -> None:
    context = without_fm.again()
    instant = context.dataset.clock.start(PART) + context.dataset.lag
    written = export(context, without_fm.result.spaces[0], instant, tmp_path / "histories")
    assert all(rows > 0 for rows in written.values())
    assert set(written) == {
        f"{space}/{key}" for space in (without_fm.result.spaces[0].space_id, "raw") for key in ("user", "item")
    }
    predict(context, "feed", PART, tmp_path / "offline.parquet")
    predict(context, "feed", PART, tmp_path / "served.parquet", histories=tmp_path / "histories")
    offline, served = by_id(tmp_path / "offline.parquet"), by_id(tmp_path / "served.parquet")
    readable = rows_that_read_at(without_fm, instant)
    assert len(readable) > 1000
    assert np.max(np.abs([offline[row] - served[row] for row in readable])) < 1e-6
    early = set(offline) - readable
    assert early
    assert max(abs(offline[row] - served[row]) for row in early) > 1e-3


def rows_that_read_at(loop: Loop, instant: int) -> set[int]:
    space = loop.result.spaces[0]
    scope = {"space_id": space.space_id}
    rows: pa.Table = loop.context.store.arrow(
        "features", loop.context.pin("features", scope, [PART]), scope, [PART], ["vertical", "example_id", "event_ts"]
    )
    return {r["example_id"] for r in rows.to_pylist() if r["vertical"] == "feed" and r["event_ts"] >= instant}


def test_a_partition_is_scored_before_its_labels_exist_and_no_training_sees_it(loop: Loop, tmp_path: Path) -> None:
    shutil.copytree(loop.root, tmp_path / "root")
    context, space = loop_world.context(tmp_path / "root"), loop.result.spaces[0]
    predict(context, "feed", PART, tmp_path / "labelled.parquet")
    none = context.spark.createDataFrame(context.store.schema("labels").empty_table())
    write_table(context, LABELS, {}, [PART], {}, lambda: none)
    write_features(context, space, [PART])
    predict(context, "feed", PART, tmp_path / "early.parquet")
    early = by_id(tmp_path / "early.parquet")
    assert early == by_id(tmp_path / "labelled.parquet")
    assert len(early) > 1000
    champion = context.registry.by_alias(context.vm_name("feed"), CHAMPION)
    assert champion is not None
    assert len(registered_scores(context, "feed", champion, [PART])) == 0
    assert len(labelled_rows(context, "feed", space, [PART], ["example_id"])) == 0


def test_exports_keep_space_and_label_times(loop: Loop, tmp_path: Path) -> None:
    space = loop.result.spaces[0]
    instant = loop.context.dataset.clock.start(PART) + HOUR_MS
    export(loop.again(), space, instant, tmp_path)
    rows = pq.read_table(tmp_path / space.space_id / "user.parquet")
    assert set(rows["space_id"].to_pylist()) == {space.space_id}
    assert rows["label_available_at"].combine_chunks().flatten().drop_null().to_pylist()


def test_missing_histories_and_models_are_named(loop: Loop, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="export-histories"):
        predict(loop.again(), "feed", PART, tmp_path / "p.parquet", histories=tmp_path)
    with pytest.raises(StepError, match="no version 99; there are"):
        predict(loop.again(), "feed", PART, tmp_path / "p.parquet", version="99")
    with pytest.raises(StepError, match="no vertical 'nowhere'; there are"):
        predict(loop.again(), "nowhere", PART, tmp_path / "p.parquet")
