"""Late rows re-open their own partition, and everything that depends on it follows, whatever order runs end in."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.clocks import DAY_MS, PartitionClock
from pipelines.backfill_plan import plan_backfill
from pipelines.cli_verbs import status
from pipelines.config import parse_config
from pipelines.context import RunContext
from pipelines.fm_inputs import fm_inputs
from pipelines.ingest import ingest
from pipelines.plan import part_states, source_targets
from pipelines.reopen import lacking_of_files, lacking_rows, late_parts, reopened, reopened_by_range, runs_of
from pipelines.segments import segments
from pipelines.write_range import write_range
from tests.conftest import TINY
from tests.pipelines import loop_world

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CLOCK = PartitionClock(DAY_MS)
DAYS = CLOCK.between("2026-01-05", "2026-01-08")


def save(folder: Path, name: str, rows: list[tuple[str, str]], shift: int = 0) -> None:
    """Rows of (event day, arrival day) as one file."""
    made: dict[str, list[Any]] = {
        n: [] for n in ("user", "item", "event", "arrived", "click", "like", "category", "price")
    }
    for place, (event, arrived) in enumerate(rows):
        start = CLOCK.start(event) + 3_600_000 + shift + place
        values = (place % 3, place % 2, start, max(start, CLOCK.start(arrived)), place % 2, 0, place % 4, 2.0)
        for column, value in zip(made.values(), values, strict=True):
            column.append(value)
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(made), folder / name)


@pytest.fixture
def context(tmp_path: Path, spark: SparkSession) -> RunContext:
    raw = loop_world.raw_settings()
    raw["dataset"] = TINY | {
        "source": {"read": {"format": "parquet", "paths": [str(tmp_path / "source")]}},
        "event_ts": {"value": "event", "unit": "ms"},
        "arrived_at": {"value": "arrived", "unit": "ms"},
        "training_lag": "0s",
    }
    raw["vm"]["loopfm_readers"] = [{"key": "user", "kinds": ["mean"]}]
    raw["vm"]["raw_readers"] = [{"key": "user", "tokens": "raw", "kinds": ["mean"]}]
    raw["schedule"] = {"late": "2d"}
    raw["dataset"]["checks"] = {"max_reject_share": 1.0}
    made = RunContext(
        parse_config(raw, "late.yaml"), "late.yaml", root=str(tmp_path / "home"), progress=lambda line: None
    )
    made.__dict__["spark"] = spark
    save(tmp_path / "source", "on_time.parquet", [(day, day) for day in DAYS for _ in range(5)])
    return made


def source(context: RunContext) -> Path:
    read = context.dataset.source.read
    assert read is not None
    return Path(read.paths[0])


def test_late_rows_reopen_their_partition_and_what_depends_on_it(context: RunContext) -> None:
    targets = {target.step.table: target for target in source_targets(context)}
    ingest(context, DAYS)
    fm_inputs(context, DAYS)
    segments(context, None, DAYS)
    assert late_parts(context, DAYS[3]) == []
    assert reopened(context, [targets["fm_inputs"]], DAYS[3]) == [DAYS[3]]

    late = [(DAYS[1], DAYS[3]), (DAYS[0], DAYS[3]), (DAYS[2], DAYS[2])]
    save(source(context), "late.parquet", [row for row in late for _ in range(30)], shift=1000)
    assert late_parts(context, DAYS[3]) == [DAYS[1]], "day 0 lies further back than schedule.late"
    assert late_parts(context, DAYS[2]) == [], "rows of the partition itself are not late"

    ingest(context, [DAYS[1]])
    assert late_parts(context, DAYS[3]) == [], "they are stored now"
    for table in ("fm_inputs", "segments"):
        assert reopened(context, [targets[table]], DAYS[3]) == [DAYS[1], DAYS[3]]
        assert reopened(context, [targets[table]], DAYS[0]) == [DAYS[0], DAYS[1]], "later ones are not left stale"
    assert runs_of(context, [DAYS[0], DAYS[1], DAYS[3]]) == [[DAYS[0], DAYS[1]], [DAYS[3]]]


def test_status_plan_and_backfill_name_late_rows_however_late_and_write_ingests_them(
    context: RunContext, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_range(context, DAYS, [])
    assert lacking_of_files(context, DAYS) == {}
    late = [(DAYS[0], DAYS[3]), (DAYS[2], DAYS[3])]
    save(source(context), "late.parquet", [row for row in late for _ in range(30)], shift=1000)
    monkeypatch.setattr("pipelines.cli_verbs.context_of", lambda options: context)
    status(Namespace())
    shown = capsys.readouterr().out
    assert f"{DAYS[0]} .. {DAYS[0]} (1): stale: 30 rows of the source came later" in shown
    plan = str(plan_backfill(context, DAYS, [], lacking_of_files(context, DAYS)))
    assert f"write examples                     {DAYS[2]} .. {DAYS[2]} (1): stale: 30 rows" in plan

    write_range(context, [DAYS[3]], [])
    assert lacking_of_files(context, DAYS) == {DAYS[0]: 30}, "day 0 lies further back than schedule.late"
    write_range(context, DAYS[:1], [])
    assert lacking_of_files(context, DAYS) == {}
    assert all(state.is_fresh for state in part_states(context, source_targets(context)[0], DAYS).values())


def test_what_an_ingest_sets_aside_is_not_lacking(context: RunContext) -> None:
    ingest(context, DAYS)
    first = source(context) / "on_time.parquet"
    rows = pq.read_table(first)
    late = pa.array([instant + DAY_MS for instant in rows["arrived"].to_pylist()])
    corrected = rows.set_column(7, "price", pa.array([3.0] * len(rows))).set_column(3, "arrived", late)
    pq.write_table(pa.concat_tables([rows, corrected, rows]), first)
    assert lacking_of_files(context, DAYS) == dict.fromkeys(DAYS, 5)
    ingest(context, DAYS)
    assert lacking_of_files(context, DAYS) == {}, "what was corrected or is there twice lies in quarantine"


def test_where_files_cannot_tell_write_asks_spark(context: RunContext) -> None:
    dataset = context.config.dataset
    filtered = dataset.source.model_copy(update={"where": "price > 0"})
    context.config = context.config.model_copy(update={"dataset": dataset.model_copy(update={"source": filtered})})
    ingest(context, DAYS)
    assert reopened_by_range(context, DAYS[1:3]) == []
    late = [(DAYS[0], DAYS[2]), (DAYS[1], DAYS[1]), (DAYS[1], DAYS[3])]
    save(source(context), "late.parquet", late, shift=1000)
    assert lacking_of_files(context, DAYS) is None
    assert reopened_by_range(context, DAYS[1:3]) == DAYS[:2]
    assert reopened_by_range(context, DAYS[1:2]) == DAYS[:2], "what arrived after the range belongs to it all the same"
    assert lacking_rows(context, DAYS, CLOCK.start(DAYS[0])) == {DAYS[0]: 1, DAYS[1]: 2}


def test_a_changed_definition_reopens_nothing(context: RunContext, tmp_path: Path) -> None:
    ingest(context, DAYS)
    segments(context, None, DAYS)
    dataset = context.config.dataset
    longer = dataset.histories.model_copy(update={"length": 7})
    config = context.config.model_copy(update={"dataset": dataset.model_copy(update={"histories": longer})})
    changed = RunContext(config, "late.yaml", root=context.root, progress=lambda line: None)
    target = next(target for target in source_targets(changed) if target.step.table == "segments")
    assert {state.state for state in part_states(changed, target, DAYS).values()} == {"stale"}
    assert reopened(changed, [target], DAYS[3]) == [DAYS[3]]


def test_without_arrival_times_nothing_is_late(context: RunContext) -> None:
    dataset = context.config.dataset.model_copy(update={"arrived_at": None})
    config = context.config.model_copy(update={"dataset": dataset})
    assert late_parts(RunContext(config, "late.yaml", root=context.root), DAYS[3]) == []
