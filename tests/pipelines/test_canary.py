"""The canary on the real pipeline: nothing leaks, and a leak would be seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from feature_store.asof import fm_inputs_frame
from pipelines.canary import canary, scratch
from pipelines.context import RunContext
from pipelines.interference import FOLDER, changed_rows, sample_chunks, write_in_chunks
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


TABLES = ["examples", "labels", "fm_inputs", "fm_outputs"]
TABLES += [name for table in ("segments", "histories") for name in (f"{table} raw", table)]
TABLES += ["features", "what VMs read"]


@pytest.mark.slow
def test_the_future_changes_nothing_before_it(loop: Loop) -> None:
    changed = changed_rows(loop.again(), loop.result.spaces[0], loop.result.windows)
    assert changed == dict.fromkeys(TABLES, 0)
    ledger = RunContext(loop.context.config, "", root=f"{loop.context.folder}/{FOLDER}/future").store.ledger
    written = ledger.coverage("features", {"space_id": loop.result.spaces[0].space_id})
    assert "partials" in written[loop.result.windows.vm_train[-1]].versions_read, "the sample reads partial sums"


@pytest.mark.slow
def test_leaks_show_in_every_table_that_they_reach(loop: Loop, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An FM input that counts its partition's rows, and a lag that lets VMs read their own partition."""
    shutil.copytree(loop.root, tmp_path / "leaky")
    ahead = replace(loop.again(), root=str(tmp_path / "leaky"), tracking_uri=loop.context.registry.tracking_uri)
    ahead.config = ahead.config.model_copy(
        update={"dataset": ahead.dataset.model_copy(update={"lag": -ahead.dataset.grain})}
    )
    monkeypatch.setattr("pipelines.fm_inputs.fm_inputs_frame", counting(fm_inputs_frame))
    space, windows = loop.result.spaces[0], loop.result.windows
    sample = sample_chunks(windows)[1:2]
    write_in_chunks(ahead, None, windows, sample)
    write_in_chunks(ahead, space, windows, sample)
    changed = changed_rows(ahead, space, windows)
    # A segment is read once its partition has closed, and the input's leak ends with its partition.
    honest = {"examples", "labels", "segments", "segments raw"}
    assert {name for name, rows in changed.items() if not rows} == honest
    assert set(changed) == set(TABLES)


def counting(build: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """A builder of fm_inputs whose ``context`` is the rows of the item in the whole partition, later ones included."""

    def leaky(*given: Any) -> DataFrame:
        from pyspark.sql import Window
        from pyspark.sql import functions as F

        rows_of_item = F.count("*").over(Window.partitionBy("part", "item"))
        return build(*given).withColumn("context", rows_of_item.cast("float"))

    return leaky


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
