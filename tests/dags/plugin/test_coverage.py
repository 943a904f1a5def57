"""The grid's answer: every state with its reason, per space, and what fills a gap."""

from __future__ import annotations

import json

import pytest

from feature_store.errors import ContractError
from pipelines.cli import main
from pipelines.errors import ConfigError, StepError
from pipelines.inspection.coverage import coverage, grid, known_parts
from pipelines.inspection.partition import partition
from pipelines.inspection.projects import Projects
from tests.dags.plugin import ledger_world
from tests.dags.plugin.ledger_world import DAYS, REJECTS, RUN, SPACE


def states(found, label):
    """state of each day of a table of the grid's answer."""
    (table,) = [table for table in found["tables"] if table["label"] == label]
    return [state for _, count, state, _ in table["ranges"] for _ in range(count)]


def test_every_state_is_told_apart(world):
    found = grid(world.context())
    assert found["parts"] == DAYS
    assert states(found, "examples") == ["done"] * 6
    assert states(found, f"fm_outputs {SPACE}") == ["outside", "outside", "done", "missing", "failed", "done"]
    assert states(found, f"segments {SPACE}") == ["outside", "outside", "done", "missing", "missing", "stale"]
    assert states(found, f"features {SPACE}") == ["outside", "outside", "done", "missing", "missing", "running"]
    assert states(found, "histories raw") == ["outside", "outside", "done", "done", "done", "done"]


def test_a_range_says_why(world):
    (table,) = [t for t in grid(world.context())["tables"] if t["label"] == f"segments {SPACE}"]
    reasons = {state: reason for _, _, state, reason in table["ranges"]}
    assert reasons["stale"] == f"fm_outputs {DAYS[5]} was written again"
    assert reasons["missing"] == "never written"
    assert table["counts"] == {"done": 1, "missing": 2, "outside": 2, "stale": 1}
    assert (table["space"], table["scope"], table["step"]) == (SPACE, {"space_id": SPACE}, "segments")


def test_the_share_of_rejected_rows_stands_beside_its_limit(world):
    found = grid(world.context())["quarantine"]
    assert found == {"limit": 0.05, "shares": [0, 0, 0, 0, 0, 0.04]}


def test_a_day_that_was_never_ingested_is_a_gap(world, tmp_path):
    context = Projects(world.conf, str(tmp_path)).context("small")
    assert known_parts(context) == []
    assert grid(context)["parts"] == []
    examples = coverage(context, [], [])[0].target
    ledger_world.append(context, examples, [DAYS[0]], 0)
    ledger_world.append(context, examples, [DAYS[2]], 1)
    assert states(grid(context), "examples") == ["done", "missing", "done"]


def test_an_answer_tells_one_state_whatever_is_written_meanwhile(world, tmp_path, monkeypatch):
    context = Projects(world.conf, str(tmp_path)).context("small")
    targets = {found.target.label: found.target for found in coverage(context, [], [])}
    ledger_world.append(context, targets["examples"], [DAYS[0]], 0)

    def spaces_while_labels_are_written():
        ledger_world.append(context, targets["labels"], [DAYS[0]], 1)
        return []

    with monkeypatch.context() as patch:
        patch.setattr(context.spaces, "all", spaces_while_labels_are_written)
        assert states(grid(context), "labels") == ["missing"]
    assert states(grid(context), "labels") == ["done"]


def test_the_command_names_the_file_as_it_is_typed(world, monkeypatch):
    monkeypatch.chdir(world.conf.parent)
    found = grid(Projects(world.conf, str(world.root)).context("small"))
    assert found["backfill"] == "loopfm backfill conf/small.yaml"


def test_a_project_is_opened_again_when_its_file_changes(world, tmp_path):
    path = ledger_world.write_conf(tmp_path)
    projects = Projects(tmp_path, str(world.root))
    before = projects.context("small")
    assert projects.context("small") is before
    path.write_text(path.read_text().replace("retention: 8d", "retention: 7d"))
    changed = projects.context("small")
    assert changed is not before
    assert states(grid(changed), "histories raw")[2:] == ["stale"] * 4


def test_a_broken_file_does_not_hide_the_others(world, tmp_path):
    ledger_world.write_conf(tmp_path)
    (tmp_path / "broken.yaml").write_text("dataset: {grain: 7h}\n")
    projects = Projects(tmp_path, str(world.root))
    broken, small = projects.files()
    assert (broken.name, small.error) == ("broken", None)
    assert "broken.yaml: dataset.name: Field required" in broken.error
    with pytest.raises(ConfigError, match=r"no project 'other'.*there are \['broken', 'small'\]"):
        projects.context("other")


def test_a_partition_shows_its_attempts_newest_first(world):
    found = partition(world.context(), "fm_outputs", {"space_id": SPACE}, DAYS[5])
    assert [(a["attempt"], a["state"], a["version_written"]) for a in found["attempts"]] == [
        (2, "done", 2),
        (1, "done", 1),
    ]
    newest = found["attempts"][0]
    assert (newest["run_id"], newest["rows"], newest["versions_read"]) == (RUN, 1000, {"fm_inputs": 0})
    assert found["upstream"] == [["fm_inputs", DAYS[5], DAYS[5]]]
    assert json.dumps(found)


def test_a_failed_and_a_running_attempt_are_shown_as_such(world):
    context, scope = world.context(), {"space_id": SPACE}
    failed = partition(context, "fm_outputs", scope, DAYS[4])
    assert (failed["state"], failed["reason"]) == ("failed", "BadDataError: 3 rows of 1000 hold no item")
    assert [attempt["state"] for attempt in failed["attempts"]] == ["failed"]
    running = partition(context, "features", scope, DAYS[5])
    assert [attempt["state"] for attempt in running["attempts"]] == ["running"]
    missing = partition(context, "features", scope, DAYS[3])
    assert (missing["state"], missing["attempts"]) == ("missing", [])


def test_rejected_rows_are_counted_by_reason(world):
    context = world.context()
    assert partition(context, "examples", {}, DAYS[5])["rejects"] == REJECTS
    assert partition(context, "examples", {}, DAYS[4])["rejects"] == {}
    assert partition(context, "fm_inputs", {"inputs_id": context.inputs_id}, DAYS[5])["rejects"] == {}


def test_unknown_tables_and_partitions_are_refused_by_name(world):
    with pytest.raises(StepError, match="no table nothing with"):
        partition(world.context(), "nothing", {}, DAYS[0])
    with pytest.raises(ContractError, match="got partition '2026-01-01T13'"):
        partition(world.context(), "examples", {}, "2026-01-01T13")


def test_status_prints_the_same_states(world, monkeypatch, capsys):
    monkeypatch.setenv("LOOPFM_HOME", str(world.root))
    assert main(["status", str(world.conf / "small.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (outputs,) = [line for line in lines if line.startswith(f"fm_outputs {SPACE}")]
    assert outputs.endswith("2,000 rows  2 done, 1 failed, 1 missing, 2 outside")
    assert f"    {DAYS[4]} .. {DAYS[4]} (1): failed: BadDataError: 3 rows of 1000 hold no item" in lines
    assert not any("outside:" in line or "missing:" in line for line in lines)
