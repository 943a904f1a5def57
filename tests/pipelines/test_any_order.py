"""Partitions in any order: what was written before an earlier one that it looks back to is stale until it is redone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from feature_store.asof_parts import earlier_parts
from feature_store.commits import Attempt
from feature_store.config import RAW_SPACE
from feature_store.ledger import DONE, RUNNING
from feature_store.spaces import SpaceRecord
from pipelines.asof_reads import as_of_reads
from pipelines.backfill_plan import plan_backfill
from pipelines.context import RunContext
from pipelines.features import features
from pipelines.fm_inputs import fm_inputs
from pipelines.infer import FM_OUTPUTS
from pipelines.ingest import EXAMPLES, ingest
from pipelines.inspection.partition import partition
from pipelines.plan import PartState, Target, part_states, planned_writes, source_targets, space_targets
from pipelines.reopen import reopened
from pipelines.segments import SEGMENTS
from pipelines.step import Scope, TableStep, write_table
from tests.conftest import make_dataset
from tests.pipelines import loop_world

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST, SECOND, THIRD = "2026-01-01", "2026-01-02", "2026-01-03"
WORLD = loop_world.WORLD | {"rows_per_day": 300}
OWN = ["examples", "labels"]
SEEN = {"name": "seen", "kind": "count", "key": ["item"]}
CLICKS = {"name": "clicks", "kind": "label_rate", "key": ["item"], "label": "click"}


def context_of(root: Path, windows: list[str]) -> RunContext:
    """The demo with counts that look back over ``windows``, for the FM and as counters of one vertical."""
    verticals = loop_world.raw_settings()["dataset"]["verticals"]
    verticals["feed"]["counters"], verticals["shop"]["counters"] = ["clicks"], []
    return loop_world.context(
        root,
        source={"world": WORLD},
        lag="0m",
        as_of=[SEEN | {"windows": windows}, CLICKS | {"windows": windows}],
        fm_features=["hour", "seen", "clicks"],
        verticals=verticals,
    )


def target_of(context: RunContext, table: str, space: SpaceRecord | None = None) -> Target:
    targets = source_targets(context) if space is None else space_targets(context, space)
    return next(target for target in targets if target.step.table == table)


def space_of(context: RunContext) -> SpaceRecord:
    return SpaceRecord("fm-a", context.inputs_id, 0, 0, ["feed", "shop"], 4, 4, ["mlp.0"], "fm.pt", "digest", "run-1")


def written(
    context: RunContext, target: Target, part: str, version: int, reads: dict[str, int] | None = None, rows: int = 5
) -> None:
    """Tell the ledger that a commit wrote ``part``, without one."""
    info = target.step.info(context)
    token = f"{target.step.table}-{version}"
    attempt = Attempt(target.step.table, target.scope, [part], version + 1, token, info, reads or {}, 0)
    entries = [replace(entry, version_written=version, rows=rows) for entry in attempt.entries(DONE)]
    context.store.ledger.append(entries)


def state(context: RunContext, target: Target, part: str) -> PartState:
    return part_states(context, target, [part])[part]


@pytest.mark.parametrize("table", ["fm_inputs", "features"])
def test_an_earlier_partition_that_appears_later_stales_what_looks_back_to_it(tmp_path: Path, table: str) -> None:
    context = context_of(tmp_path, ["1d"])
    examples = target_of(context, "examples")
    target = target_of(context, table, space_of(context) if table == "features" else None)
    written(context, examples, THIRD, 0)
    written(context, target, THIRD, 0, {"examples": 0})
    written(context, examples, FIRST, 1)
    assert state(context, target, THIRD).is_fresh, "two days back lie outside a window of one day"
    written(context, examples, SECOND, 2)
    reason = f"examples {SECOND}, which its as-of columns see, came after it was written"
    assert state(context, target, THIRD) == PartState("stale", reason, 5)
    assert reason in str(planned_writes(context, [(target, [THIRD])])[0])
    assert reopened(context, [target], SECOND) == [SECOND, THIRD]
    written(context, target, THIRD, 1, {"examples": 2})
    assert state(context, target, THIRD).is_fresh


def test_a_plan_holds_what_becomes_stale_by_what_it_writes(tmp_path: Path) -> None:
    context, parts = context_of(tmp_path, ["1d"]), [FIRST, SECOND, THIRD]
    for version, part in enumerate([FIRST, THIRD]):
        for target in source_targets(context):
            written(context, target, part, version, dict.fromkeys([*OWN, "segments"], version))
    shown = [str(write) for write in planned_writes(context, [(of, parts) for of in source_targets(context)])]
    later = {line.split(maxsplit=3)[1]: line for line in shown if f"{THIRD} .. {THIRD}" in line}
    assert set(later) == {"fm_inputs", "histories"}, "what reads other partitions than its own"
    assert f"stale: examples {SECOND} is to be written" in later["fm_inputs"]
    assert f"stale: segments {SECOND} is to be written" in later["histories"]
    assert plan_backfill(context, parts, []).chunks == [(SECOND, THIRD)]
    assert not any(FIRST in line for line in shown)


@pytest.mark.parametrize(("fm_clock", "fresh"), [("event", True), ("batch", False)])
def test_a_changed_lag_stales_what_the_fm_reads_of_closed_partitions(
    tmp_path: Path, fm_clock: str, fresh: bool
) -> None:
    declared = {"fm_features": ["hour", "user_clicks"], "fm_clock": fm_clock}
    context, later = (loop_world.context(tmp_path, lag=lag, **declared) for lag in ("0m", "2h"))
    examples, inputs = (target_of(context, table) for table in ("examples", "fm_inputs"))
    written(context, examples, SECOND, 0)
    written(context, inputs, SECOND, 0, dict.fromkeys(OWN, 0))
    assert state(context, inputs, SECOND).is_fresh
    found = state(later, target_of(later, "fm_inputs"), SECOND)
    assert found == (
        PartState("done", "", 5) if fresh else PartState("stale", "settings changed since it was written", 5)
    )


def test_late_rows_of_an_earlier_partition_and_empty_ones_stale_nothing(tmp_path: Path) -> None:
    context = context_of(tmp_path, ["ever"])
    examples, inputs = target_of(context, "examples"), target_of(context, "fm_inputs")
    written(context, examples, SECOND, 0)
    written(context, examples, THIRD, 1)
    written(context, inputs, THIRD, 0, {"examples": 1})
    depends = [["examples", THIRD, THIRD], ["labels", THIRD, THIRD], ["examples", SECOND, SECOND]]
    assert partition(context, "fm_inputs", inputs.scope, THIRD)["upstream"] == depends
    assert partition(context, "fm_inputs", inputs.scope, SECOND)["upstream"] == [[t, SECOND, SECOND] for t in OWN]
    written(context, examples, SECOND, 2)
    written(context, examples, FIRST, 3, rows=0)
    assert state(context, inputs, THIRD).is_fresh


def test_a_partition_that_is_being_written_again_is_still_read(tmp_path: Path) -> None:
    context = context_of(tmp_path, ["ever"])
    examples = target_of(context, "examples")
    for version, part in enumerate((FIRST, SECOND)):
        written(context, examples, part, version)
    again = Attempt("examples", {}, [FIRST], 9, "again", EXAMPLES.info(context), {}, 0)
    context.store.ledger.append(again.entries(RUNNING))
    assert as_of_reads(context, [SECOND]).earlier == [FIRST]
    assert as_of_reads(context, [SECOND], ["clicks"]).earlier == [FIRST]


def test_what_as_of_columns_look_back_to_ends_with_their_clock() -> None:
    dataset = make_dataset(as_of=[SEEN | {"windows": ["2d"]}], fm_features=["seen"], lag="30h")
    assert earlier_parts(dataset)("2026-01-09") == ("2026-01-07", "2026-01-08")
    assert earlier_parts(dataset, ["seen"])("2026-01-09") == ("2026-01-05", "2026-01-07")
    assert earlier_parts(dataset, [])("2026-01-09") is None
    batch = dataset.model_copy(update={"fm_clock": "batch"})
    assert earlier_parts(batch)("2026-01-09") == earlier_parts(dataset, ["seen"])("2026-01-09")
    ever = make_dataset(as_of=[SEEN | {"windows": ["1d", "ever"]}], fm_features=["seen"])
    assert earlier_parts(ever)("2026-01-09") == ("", "2026-01-08")
    assert earlier_parts(make_dataset())("2026-01-09") is None


def rows_of(context: RunContext, target: Target, part: str) -> pa.Table:
    version = context.pin(target.step.table, target.scope, [part])
    return context.store.arrow(target.step.table, version, target.scope, [part]).sort_by("example_id")


@pytest.mark.slow
def test_inputs_written_before_an_earlier_partition_are_redone_as_the_range_writes_them(
    tmp_path: Path, spark: SparkSession
) -> None:
    context = context_of(tmp_path, ["1d", "ever"])
    target = target_of(context, "fm_inputs")
    ingest(context, [SECOND])
    fm_inputs(context, [SECOND])
    early = rows_of(context, target, SECOND)
    ingest(context, [FIRST])
    assert "came after it was written" in state(context, target, SECOND).reason
    fm_inputs(context, [SECOND])
    redone = rows_of(context, target, SECOND)
    assert state(context, target, SECOND).is_fresh
    fm_inputs(context, [FIRST, SECOND])
    assert redone.equals(rows_of(context, target, SECOND))
    assert len(early) == len(redone)
    assert not early.equals(redone)


@pytest.mark.slow
def test_counters_written_before_an_earlier_partition_are_redone_as_the_range_writes_them(
    tmp_path: Path, spark: SparkSession
) -> None:
    context = context_of(tmp_path, ["1d", "ever"])
    space = space_of(context)
    context.spaces.add(space)
    target, scope = target_of(context, "features", space), {"space_id": space.space_id}

    def prepare(part: str) -> None:
        ingest(context, [part])
        empty(context, FM_OUTPUTS, scope, part)
        for own in (scope, {"space_id": RAW_SPACE}):
            empty(context, SEGMENTS, own, part)

    prepare(SECOND)
    features(context, space, [SECOND])
    early = rows_of(context, target, SECOND)
    prepare(FIRST)
    assert "came after it was written" in state(context, target, SECOND).reason
    features(context, space, [SECOND])
    redone = rows_of(context, target, SECOND)
    assert state(context, target, SECOND).is_fresh
    features(context, space, [FIRST, SECOND])
    assert redone.equals(rows_of(context, target, SECOND))
    assert not early.equals(redone)


def empty(context: RunContext, step: TableStep, scope: Scope, part: str) -> None:
    """Write a partition without rows."""
    schema = context.store.schema(step.table)
    write_table(context, step, scope, [part], {}, lambda: context.spark.createDataFrame(schema.empty_table()))
