"""Models are judged on partitions whose labels were all known by the end of the newest ingested one."""

from __future__ import annotations

import re
from dataclasses import replace

import pyarrow as pa
import pytest

from feature_store.clocks import DAY_MS, HOUR_MS
from feature_store.ledger import LedgerEntry
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.evaluate import compare_arms, evaluate
from pipelines.maturity import LabelState, label_states, mature, newest_with_positives, require_mature
from pipelines.promote import promote
from pipelines.run import run_loop
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

DAYS = ["2026-01-06", "2026-01-07"]
LATE = r"labels of 2026-01-07 \.\. 2026-01-07 become known in 2026-01-08, ingested is up to 2026-01-07"
NONE_MATURE = rf"feed: no mature partition in 2026-01-07 \.\. 2026-01-07: {LATE}; ingest up to .*-08: .*label_wait.*"
STATES = {f"2026-01-0{day}": LabelState(100, positives, day * HOUR_MS) for day, positives in ((1, 9), (2, 5), (3, 4))}


def unseen_next_day(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    """The project as it was before the day after the test was ingested."""
    context = loop.again()
    coverage = context.store.ledger.coverage

    def earlier(table: str, scope: dict[str, str]) -> dict[str, LedgerEntry]:
        return {part: entry for part, entry in coverage(table, scope).items() if part < loop_world.KNOWN}

    monkeypatch.setattr(context.store.ledger, "coverage", earlier)
    return context


def test_mature_is_what_is_known_at_the_instant_inclusively() -> None:
    assert mature(STATES, 2 * HOUR_MS) == ["2026-01-01", "2026-01-02"]
    assert mature(STATES, 2 * HOUR_MS - 1) == ["2026-01-01"]


@pytest.mark.parametrize(("positives", "first"), [(1, 3), (4, 3), (5, 2), (9, 2), (10, 1), (1000, 1)])
def test_the_gate_takes_the_fewest_newest_partitions_with_enough_positives(positives: int, first: int) -> None:
    assert newest_with_positives(STATES, positives) == [f"2026-01-0{day}" for day in range(first, 4)]


def test_a_partition_waits_for_the_labels_of_its_late_rows(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(require_mature(loop.again(), "feed", DAYS)) == DAYS
    lines: list[str] = []
    context = unseen_next_day(loop, monkeypatch)
    context.progress = lines.append
    assert list(require_mature(context, "feed", DAYS)) == DAYS[:1]
    assert lines == [
        "feed: not mature, left out: labels of 2026-01-07 .. 2026-01-07 become known in 2026-01-08, "
        "ingested is up to 2026-01-07"
    ]


def test_a_declared_delay_counts_even_where_no_label_shows_it(loop: Loop) -> None:
    slow = {"click": {"value": "click", "delay": "30h"}, "purchase": {"value": "purchase", "delay": "1h"}}
    context = loop.again(labels=slow)
    end = context.dataset.clock.end(DAYS[0])
    assert label_states(context, "feed", DAYS)[DAYS[0]].known_at == end - 1 + 30 * HOUR_MS
    assert label_states(loop.again(), "feed", DAYS)[DAYS[0]].known_at < end + DAY_MS
    assert list(require_mature(context, "feed", DAYS)) == DAYS[:1]


def test_what_judges_models_leaves_immature_partitions_out(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    context, windows = unseen_next_day(loop, monkeypatch), loop.result.windows
    with pytest.raises(StepError, match=NONE_MATURE):
        evaluate(context, "feed", windows.test)
    with pytest.raises(StepError, match=NONE_MATURE):
        compare_arms(context, "feed", loop.result.trained, [windows.vm_train, windows.test])


def test_the_gate_holds_while_no_partition_is_mature_and_says_what_it_waits_for(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = unseen_next_day(loop, monkeypatch)
    champion = context.registry.by_version(context.vm_name("feed"), "1")
    monkeypatch.setattr(context.registry, "by_version", lambda name, version: replace(champion, version="99"))
    tagged: dict[str, str] = {}
    monkeypatch.setattr(context.registry, "tag_version", lambda name, version, tags: tagged.update(tags))
    recorded: list[pa.Table] = []
    monkeypatch.setattr(context.store, "append_arrow", lambda table, rows: recorded.append(rows))
    monkeypatch.setattr(context.registry, "set_alias", lambda *of: pytest.fail("an alias moved"))
    result = promote(context, "feed", "99")
    assert result.verdict == "hold"
    assert re.fullmatch(NONE_MATURE, result.reasons[0])
    assert tagged == {"loopfm.gate": "hold", "loopfm.gate_reasons": result.reasons[0]}
    [row] = recorded[0].to_pylist()
    assert (row["metric"], row["value"], row["first_part"], row["last_part"]) == ("positives", 0, DAYS[1], DAYS[1])


def test_a_run_whose_test_is_immature_ends_before_it_trains(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    context = unseen_next_day(loop, monkeypatch)
    monkeypatch.setattr("pipelines.run.write_sources", lambda *windows: None)
    monkeypatch.setattr("pipelines.run.train_fm", lambda *windows: pytest.fail("trained"))
    with pytest.raises(StepError, match=NONE_MATURE):
        run_loop(context, loop.result.windows, ["base"], 1)
