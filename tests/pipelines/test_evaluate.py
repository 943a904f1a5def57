"""What a comparison appends to table evaluations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate import Evaluated, record
from pipelines.measure import Figure
from tests.pipelines import loop_world
from tests.pipelines.report_world import scores


def test_a_figure_carries_the_coverage_of_its_own_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    context, ids = loop_world.context(tmp_path), np.arange(3000)
    # Of ten rows the odd ones lack raw_user and the last one lacks fm_item: only it has no history at all.
    slices = {"user: new": ids[9::10], "user: light": ids[8:3000:2], "user: heavy": ids[np.isin(ids % 10, (8, 9))]}
    arms = {"base": [scores(0.3)], "loopfm": [scores(0.8)]}
    figures = [Figure(arm, name, "ne", 0.9, 10) for arm in arms for name in ("all", *slices, "bin: 00")]
    record(context, Evaluated("feed", ["2026-01-07"], "fm-1", {}, {}), figures, arms, slices)
    store = context.store
    rows = store.arrow("evaluations", store.newest("evaluations"), {}, None).to_pylist()
    found = {(row["arm"], row["slice"]): row["coverage"] for row in rows}
    assert len(found) == len(figures)
    told = {name: value for (arm, name), value in found.items() if arm == "loopfm" and not math.isnan(value)}
    assert told == pytest.approx({"all": 0.9, "user: new": 0.0, "user: light": 1.0, "user: heavy": 0.5})
    assert all(math.isnan(value) for (arm, _), value in found.items() if arm == "base"), "base reads no history"
