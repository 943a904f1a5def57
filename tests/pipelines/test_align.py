"""An FM of another initialisation: a map fitted on shared examples lets the old champion read the new space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.errors import SpaceMismatchError
from pipelines.align import align, find_alignment
from pipelines.align_choice import NE, best_kind
from pipelines.config import ProjectConfig
from pipelines.features import features
from pipelines.infer import infer
from pipelines.predict import predict
from pipelines.run import run_loop
from pipelines.segments import segments
from pipelines.space_ways import advice, ways
from pipelines.train_fm import train_fm
from tests.pipelines import loop_world

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TEST_PART = loop_world.LAST

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def with_a_trained_fm(config: ProjectConfig) -> ProjectConfig:
    """One epoch over few rows leaves a codec whose vectors are noise, which no map can carry over."""
    longer = {"epochs": 8, "batch_size": 128, "learning_rate_decay": 0.9}
    fm = config.fm.model_copy(update={"train": config.fm.train.model_copy(update=longer)})
    return config.model_copy(update={"fm": fm})


def chances(path: Path) -> np.ndarray:
    rows = pq.read_table(path).sort_by("example_id")
    return np.asarray(rows["p"].to_numpy())


def test_a_champion_reads_a_new_space_through_a_map(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    context = loop_world.context(tmp_path / "home")
    context.config = with_a_trained_fm(context.config)
    windows = loop_world.windows(context)
    old = run_loop(context, windows, ["base", "loopfm", "loopfm_kd"], seeds=1).spaces[0]
    new = train_fm(context, windows.fm_train, windows.fm_validation, seed=1)
    infer(context, new, windows.outputs)
    segments(context, new, windows.outputs)
    features(context, new, windows.test)
    with pytest.raises(SpaceMismatchError, match=f"space {new.space_id} for a model of space {old.space_id}"):
        predict(context, "feed", TEST_PART, tmp_path / "none.parquet", space_id=new.space_id)

    plain = align(context, new, old, windows.vm_train)
    assert max(own["r2"] for own in plain.quality.values()) == plain.quality[plain.alignment.kind]["r2"] > 0.3
    assert all(NE not in own for own in plain.quality.values()), "no rows that the VMs could score"
    features(context, new, windows.vm_train)
    fitted = align(context, new, old, windows.vm_train[1:])
    assert fitted.alignment.kind == best_kind(fitted.quality)
    assert all(0.5 < own[NE] < 1.2 for own in fitted.quality.values())
    logged = context.registry.run_metrics(fitted.run_id)
    assert logged["linear_r2"] == pytest.approx(fitted.quality["linear"]["r2"])
    assert 0 < logged["drift_linear_cka"] < 1
    again = align(context, new, old, windows.vm_train[1:])
    assert again.run_id == fitted.run_id
    assert again.quality["mlp"] == pytest.approx(fitted.quality["mlp"])
    assert again.quality["mlp"].keys() == fitted.quality["mlp"].keys()
    found = ways(context, new, old, again)
    assert found["align"].ne.keys() == found["keep"].ne.keys() == {"feed", "shop"}
    assert sum(found["align"].ne.values()) / 2 == pytest.approx(fitted.quality[fitted.alignment.kind][NE])
    assert advice(found).startswith(("align", "keep"))
    assert (found["backfill"].left, found["backfill"].ne) == (0, {})
    assert find_alignment(context, new, old, TEST_PART).kind == fitted.alignment.kind
    with pytest.raises(SpaceMismatchError, match="were fitted on rows up to"):
        find_alignment(context, new, old, windows.vm_train[-1])

    predict(context, "feed", TEST_PART, tmp_path / "native.parquet")
    predict(context, "feed", TEST_PART, tmp_path / "aligned.parquet", space_id=new.space_id)
    native, aligned = chances(tmp_path / "native.parquet"), chances(tmp_path / "aligned.parquet")
    assert len(native) == len(aligned)
    assert np.corrcoef(native, aligned)[0, 1] > 0.8
