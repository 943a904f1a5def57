"""The canary on the real pipeline: nothing leaks, and a leak would be seen."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.canary import canary, scratch
from pipelines.interference import changed_rows
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop


def test_the_future_changes_nothing_before_it(loop: Loop) -> None:
    changed = changed_rows(loop.again(), loop.result.spaces[0], loop.result.windows)
    assert changed == {
        "fm_inputs": 0, "counters": 0, "histories of raw tokens": 0, "histories of FM tokens": 0
    }  # fmt: skip


def test_a_pipeline_that_reads_one_partition_ahead_is_caught(loop: Loop) -> None:
    ahead = loop.again()
    ahead.config = ahead.config.model_copy(
        update={"dataset": ahead.dataset.model_copy(update={"lag": -ahead.dataset.grain})}
    )
    changed = changed_rows(ahead, loop.result.spaces[0], loop.result.windows)
    assert changed["histories of FM tokens"] > 0
    assert changed["histories of raw tokens"] > 0
    assert changed["counters"] > 0


def test_proofs_have_their_own_runs_even_beside_a_tracking_server(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    aside = scratch(loop.context, "honest", loop.context.config).registry
    assert aside.tracking_uri.startswith("sqlite:///")
    assert aside.tracking_uri != loop.context.registry.tracking_uri


@pytest.mark.slow
def test_every_deliberate_leak_is_seen(loop: Loop, tmp_path: Any) -> None:
    context = loop_world.context(tmp_path)
    result = canary(context, loop_world.windows(context))
    assert not result.problems
    assert min(result.power.values()) >= 0.02
