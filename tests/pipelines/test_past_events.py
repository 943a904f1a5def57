"""Past events of a second source: in the raw histories of the first examples, and not lost with a lost write."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.config import RAW_SPACE
from feature_store.sources.paths import DATA_ROOT_SETTING
from pipelines import cli_steps, write_range
from pipelines.context import RunContext
from pipelines.features import write_histories
from pipelines.write_range import source_calls
from tests.pipelines import killer, loop_world

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = loop_world.FIRST
RAW = {"space_id": RAW_SPACE}


@pytest.fixture
def context(tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    """A project with past events in the two days before its first, one of them without a user."""
    monkeypatch.setenv(DATA_ROOT_SETTING, str(tmp_path))
    killer.write_past(tmp_path)
    path = tmp_path / killer.PAST_FILE
    rows = pq.read_table(path)
    users = rows["user"].to_pylist()
    pq.write_table(rows.set_column(0, "user", pa.array([None, *users[1:]], pa.int64())), path)
    world = loop_world.WORLD | {"rows_per_day": 300}
    return loop_world.context(tmp_path / "home", source={"world": world, "past_events": killer.PAST})


def test_the_first_examples_read_past_events_from_before_them(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, start = context.dataset.clock, context.dataset.clock.start(DAY)
    earliest = clock.part_of(start - context.dataset.histories.retention)

    def lost(*_: object) -> None:
        raise KeyboardInterrupt

    # The verbs of a scheduled day write earlier partitions too, as a run does.
    monkeypatch.setattr(cli_steps, "context_of", lambda _: context)
    verb = Namespace(first=DAY, last=None, reopened=False, space=RAW_SPACE)
    with monkeypatch.context() as patch:
        patch.setattr(write_range, "write_past_events", lost)
        with pytest.raises(KeyboardInterrupt):
            cli_steps.ingest(verb)
    assert needed(context)["past_events"][-1] == "2025-12-31"
    assert not needed(context)["examples"]
    write_range.write_calls(context, write_range.past_calls(context, [DAY]))
    facts = cli_steps.segments(verb)
    assert facts is not None
    assert [[c["first"], c["last"]] for c in facts["written"]] == [[DAY, DAY], [earliest, "2025-12-31"]]
    write_histories(context, None, [DAY])
    store = context.store
    tokens = store.arrow("histories", context.pin("histories", RAW, [DAY]), RAW, [DAY])
    users = tokens.filter(np.asarray(tokens["key"].to_pylist()) == "user")
    assert max(max(times) for times in users["event_ts"].to_pylist()) < start
    assert 50 < len(set(users["key_id"].to_pylist())) < 100
    early = ["2025-12-30", "2025-12-31"]
    aside = store.arrow("quarantine", context.pin("quarantine", {}, early), {}, early)
    assert aside["reason"].to_pylist() == ["past event: null user"]
    assert [table for table, parts in needed(context).items() if parts] == ["fm_inputs", "partials"]


def needed(context: RunContext) -> dict[str, list[str]]:
    """Table -> what a run of the day would write of it."""
    calls = [call for group in source_calls(context, [DAY], [DAY]) for call in group]
    return {call.targets[0].step.table: call.needed(context) for call in calls}
