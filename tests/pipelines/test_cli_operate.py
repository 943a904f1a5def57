"""What verbs that operate a project make of the range that they are given."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from feature_store.clocks import INSTANTS_END
from pipelines.backfill_plan import plan_backfill
from pipelines.cli_operate import _chosen, backfill
from pipelines.config import parse_config
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.reopen import reopened_by_range
from tests.pipelines import loop_world


def project(root: Path, dataset: dict[str, object]) -> tuple[RunContext, list[str]]:
    """A project and the lines that it says."""
    raw, lines = loop_world.raw_settings(), []
    raw["dataset"] |= dataset
    config = parse_config(raw, "test.yaml")
    return RunContext(config, "test.yaml", root=str(root), progress=lines.append), lines


def chosen(context: RunContext, first: str, last: str) -> list[str]:
    return _chosen(context, Namespace(first=first, last=last, space=None))[0]


def test_a_range_ends_with_the_newest_partition_that_has_closed(tmp_path: Path) -> None:
    read = {"source": {"read": {"format": "parquet", "paths": ["absent/*.parquet"]}}}
    context, lines = project(tmp_path, read)
    clock = context.dataset.clock
    today = clock.part_of(int(datetime.now(UTC).timestamp() * 1000))
    before, after = clock.next(today, -1), clock.next(today)
    found = chosen(context, clock.next(today, -3), after)
    newest = clock.part_of(int(datetime.now(UTC).timestamp() * 1000))
    assert found == clock.between(clock.next(today, -3), before if newest == today else today)
    assert lines == [f"{clock.next(found[-1])} .. {after}: not closed yet, left to their scheduled runs"]
    with pytest.raises(StepError, match=f"{after} has not closed yet: its scheduled run makes it once it has"):
        chosen(context, after, after)


def test_a_long_backfill_has_no_more_chunks_than_airflow_makes_tasks_of(tmp_path: Path) -> None:
    context, _ = project(tmp_path, {})
    parts = context.dataset.clock.between("2020-01-01", "2026-12-31")
    schedule = context.config.schedule.model_copy(update={"backfill_rows": 1})
    context.config = context.config.model_copy(update={"schedule": schedule})
    chunks = plan_backfill(context, parts, []).chunks
    assert 250 <= len(chunks) <= 1000
    assert [part for first, last in chunks for part in context.dataset.clock.between(first, last)] == parts


def test_a_generated_world_holds_every_partition_at_any_time(tmp_path: Path) -> None:
    context, lines = project(tmp_path, {})
    assert chosen(context, "2999-01-01", "2999-01-02") == ["2999-01-01", "2999-01-02"]
    assert lines == []


def test_where_only_spark_can_tell_a_backfill_counts_rows_that_arrived_after_its_range_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {"source": {"read": {"format": "parquet", "paths": ["absent/*.parquet"]}, "where": "click = 1"}}
    context, _ = project(tmp_path, read)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("pipelines.reopen._counted", lambda of, parts, arrived: asked.append(arrived) or {})
    monkeypatch.setattr("pipelines.cli_operate.context_of", lambda options: context)
    reopened_by_range(context, ["2026-01-05"])
    backfill(Namespace(first="2026-01-05", last=None, space=None, dry_run=True))
    assert asked == [(context.dataset.clock.start("2026-01-05"), INSTANTS_END)] * 2


@pytest.mark.parametrize(("answer", "started"), [("y", True), (" Yes ", True), ("", False), ("n", False)])
def test_a_backfill_at_a_terminal_starts_when_a_person_says_so(
    answer: str, started: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context, _ = project(tmp_path, {})
    runs: list[tuple[str, ...]] = []
    monkeypatch.setattr("pipelines.cli_operate.context_of", lambda options: context)
    monkeypatch.setattr("pipelines.orchestration.follow.run_backfill", lambda *run: runs.append(run) or "success")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    backfill(Namespace(first="2026-01-05", last=None, space=None, dry_run=False, yes=False))
    assert runs == ([(context.config.name, "2026-01-05", "2026-01-05", "all")] if started else [])
    assert ("nothing was started" in capsys.readouterr().out) != started
