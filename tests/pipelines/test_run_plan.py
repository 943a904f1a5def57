"""``loopfm plan`` says what ``loopfm run`` does: before a run all of it, after it nothing."""

from __future__ import annotations

import pytest

from pipelines.cli import main
from pipelines.config import ARMS
from pipelines.context import RunContext
from pipelines.inspection.coverage import coverage
from pipelines.run_plan import PlannedAction, plan_run
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

NEW_SPACE = "of the new FM, seed 0"
SPACE_TABLES = ["fm_outputs", "segments", "histories", "features"]


def of(actions: list[PlannedAction], verb: str) -> list[PlannedAction]:
    return [action for action in actions if action.verb == verb]


def planned(loop: Loop, context: RunContext) -> list[PlannedAction]:
    return plan_run(context, loop.result.windows, list(ARMS), 1)


def test_the_plan_before_a_run_is_what_the_ledger_holds_after_it(loop: Loop) -> None:
    space_id, ledger = loop.result.spaces[0].space_id, loop.again().store.ledger
    written = {}
    for table in ("examples", "labels", "fm_inputs", "partials", *SPACE_TABLES):
        for scope in ledger.scopes(table):
            label = " ".join([table, *scope.values()]).replace(space_id, NEW_SPACE)
            written[label] = list(ledger.coverage(table, scope))
    writes = of(loop.planned, "write")
    assert {write.what: write.parts for write in writes} == written
    assert len(writes) == len(written)
    assert "examples" in str(writes[0])
    assert "2026-01-01 .. 2026-01-08 (8), about 24,000 rows: missing: never written" in str(writes[0])


def test_the_plan_before_a_run_names_its_trainings_and_gates(loop: Loop) -> None:
    assert [action.what for action in of(loop.planned, "train-fm")] == ["seed 0"]
    trained = [f"{vm.vertical} {vm.arm} seed {vm.seed}" for vm in loop.result.trained]
    assert [action.what for action in of(loop.planned, "train-vm")] == trained
    assert [action.what for action in of(loop.planned, "gate")] == list(loop.result.gates)
    verbs = list(dict.fromkeys(action.verb for action in loop.planned))
    assert verbs == ["write", "train-fm", "train-vm", "evaluate", "gate"]


def test_after_a_run_nothing_is_left_to_write_or_train(loop: Loop) -> None:
    assert {action.verb for action in planned(loop, loop.again())} == {"evaluate"}


def test_after_a_run_nothing_shows_as_missing(loop: Loop) -> None:
    context = loop.again()
    found = coverage(context, context.spaces.active(), loop.result.windows.fm + loop.result.windows.outputs)
    assert {state for table in found for state in table.counts} <= {"done", "outside"}
    raw = next(table for table in found if table.target.label == "histories raw")
    assert [part for part, state in raw.states.items() if state.state == "done"] == loop.result.windows.vm


def test_rows_of_other_partitions_train_nothing_again(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    context = loop.again()
    head = context.store.ledger.head
    monkeypatch.setattr(context.store.ledger, "head", lambda table: (head(table) or 0) + 1)
    assert context.pin("labels", {}, loop.result.windows.vm) == (head("labels") or 0) + 1
    assert {action.verb for action in planned(loop, context)} == {"evaluate"}


def test_a_changed_fm_plans_a_new_space_and_leaves_the_sources(loop: Loop) -> None:
    context = loop.again()
    fm = context.config.fm.model_copy(update={"embedding_dim": 5})
    context.config = context.config.model_copy(update={"fm": fm})
    actions, windows = planned(loop, context), loop.result.windows
    assert [action.what for action in of(actions, "write")] == [f"{table} {NEW_SPACE}" for table in SPACE_TABLES]
    assert [action.parts for action in of(actions, "write")] == [windows.outputs] * 2 + [windows.vm] * 2
    assert len(of(actions, "train-fm")) == 1
    assert len(of(actions, "train-vm")) == 2 * len(ARMS)
    assert [action.what for action in of(actions, "gate")] == ["feed", "shop"]


def test_the_plan_names_the_fm_on_batch_features_where_the_fm_reads_more(loop: Loop) -> None:
    context = loop.again(fm_features=["hour", "category", "user_clicks"])
    reasons = [action.why for action in of(planned(loop, context), "evaluate")]
    arms = f"arms {', '.join(ARMS)}"
    assert reasons == [[f"{arms}, beside an FM of the same size on batch features"]] * 2
    assert [action.why for action in of(loop.planned, "evaluate")] == [[arms]] * 2


def test_what_a_planned_write_stales_is_planned_too(loop: Loop) -> None:
    shorter = {"keys": {"user": ["user"], "item": ["item"]}, "length": 7, "retention": "8d"}
    actions, space_id = planned(loop, loop.again(histories=shorter)), loop.result.spaces[0].space_id
    assert [action.what for action in of(actions, "write")] == [
        "segments raw", "histories raw", f"segments {space_id}", f"histories {space_id}",
    ]  # fmt: skip
    assert not of(actions, "train-fm")
    assert len(of(actions, "train-vm")) == 2 * len(ARMS)


def test_the_verb_prints_the_plan_of_the_arms_it_is_given(
    loop: Loop, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    path = tmp_path / "project.yaml"
    path.write_text(yaml.safe_dump(loop_world.raw_settings(), sort_keys=False))
    span = ["--from", loop_world.FIRST, "--to", loop_world.KNOWN]
    monkeypatch.setenv("LOOPFM_HOME", str(loop.root))
    assert main(["plan", str(path), *span, "--arms", "base", "loopfm_kd"]) == 0
    assert "nothing to write or train: every table is fresh, every training finished" in capsys.readouterr().out
    monkeypatch.setenv("LOOPFM_HOME", str(tmp_path))
    assert main(["plan", str(path), *span, "--arms", "base"]) == 0
    shown = capsys.readouterr().out
    assert "train-vm feed base seed 0" in shown
    assert "loopfm_kd" not in shown
    assert "gate " not in shown, "the scheduled arm is not among the arms"
