"""What scheduled runs ask of a project that has run: windows, live figures, alarms, backfill plans, spaces, upkeep."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest

from feature_store.clocks import HOUR_MS
from feature_store.errors import ContractError
from feature_store.ledger import DONE
from feature_store.retention import vacuum
from feature_store.tables import TableStore
from pipelines.backfill_plan import plan_backfill
from pipelines.cli import main
from pipelines.context import RunContext
from pipelines.drift import centroid_drift
from pipelines.errors import GateError, StepError
from pipelines.features import FEATURES, features
from pipelines.live import alarms, score_champions
from pipelines.orchestration.windows import fm_windows, vm_space, vm_windows
from pipelines.promote import judge
from pipelines.registry import CHALLENGER, CHAMPION, ROLLBACK, RegisteredModel
from pipelines.upkeep import close_spaces, maintain, needed_models, pinned_versions
from pipelines.write_range import own_parts
from tests.feature_store.store_world import age
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

pytestmark = pytest.mark.slow

LAST = loop_world.LAST
NEXT = loop_world.KNOWN


def test_a_vm_trains_on_the_newest_mature_window(loop: Loop) -> None:
    context = loop.again()
    space = vm_space(context, "feed")
    windows = vm_windows(context, "feed", space, NEXT)
    assert (windows.train, windows.validation, windows.test) == (
        ["2026-01-04", "2026-01-05"], ["2026-01-06"], ["2026-01-07"],
    )  # fmt: skip
    early = (
        r"feed: space .* will have no features of 2026-01-02: they begin after 2026-01-03, .* choose a later partition"
    )
    with pytest.raises(StepError, match=early):
        vm_windows(context, "feed", space, "2026-01-02")
    early = r"feed, trained on 2026-01-0\d .. .*: space .* will have no features of 2026-01-0\d: .* choose a later"
    with pytest.raises(StepError, match=early):
        vm_windows(context, "feed", space, "2026-01-05")
    wider = replace(space, fm_train_cutoff=context.dataset.clock.start("2026-01-01"))
    with pytest.raises(StepError, match=r"features of 2026-01-0\d .. .* are missing from .*; run `loopfm backfill"):
        vm_windows(context, "feed", wider, "2026-01-05")


def test_an_fm_trains_one_vm_window_back(loop: Loop) -> None:
    context = loop.again()
    windows = fm_windows(context, NEXT)
    assert (windows.train, windows.validation, windows.test) == (["2026-01-01", "2026-01-02"], ["2026-01-03"], [])
    with pytest.raises(StepError, match=r"an FM trained after 2026-01-05 needs fm_inputs of 2025-12-29 .. 2025-12-31"):
        fm_windows(context, "2026-01-05")


def test_a_space_writes_nothing_before_its_cutoff(loop: Loop) -> None:
    context, space = loop.again(), loop.result.spaces[0]
    windows = loop.result.windows
    assert own_parts(context, space, windows.parts) == windows.outputs + windows.label_wait


def test_a_plan_names_what_is_missing_and_why(loop: Loop) -> None:
    context = loop.again()
    parts = context.dataset.clock.between(loop_world.FIRST, LAST)
    plan = plan_backfill(context, parts, context.spaces.active())
    assert plan.writes == [], "a backfill wants no more than what the run wrote"
    wider = context.dataset.clock.between(parts[0], "2026-01-09")
    plan = plan_backfill(context, wider, context.spaces.active())
    missing = {(w.label.split()[0], w.parts[0], w.parts[-1]) for w in plan.writes if w.state.state == "missing"}
    assert ("examples", "2026-01-09", "2026-01-09") in missing
    assert ("features", "2026-01-08", "2026-01-09") in missing
    assert plan.rows > 0
    assert plan.seconds > 0
    assert "never written" in str(plan)


def test_a_changed_history_length_makes_a_plan(loop: Loop) -> None:
    histories = {"keys": {"user": ["user"], "item": ["item"]}, "length": 9, "retention": "8d"}
    context = loop.again(histories=histories)
    plan = plan_backfill(context, loop.result.windows.vm, context.spaces.active())
    tables = {write.label.split()[0] for write in plan.writes}
    assert tables == {"segments", "histories"}
    assert all("settings changed" in write.state.reason for write in plan.writes)


def test_chunks_hold_the_rows_of_one_session(loop: Loop) -> None:
    context = loop.again()
    schedule = context.config.schedule.model_copy(update={"backfill_rows": 6500})
    context.config = context.config.model_copy(update={"schedule": schedule})
    parts = context.dataset.clock.between("2026-01-09", "2026-01-13")
    chunks = plan_backfill(context, parts, []).chunks
    assert chunks == [("2026-01-09", "2026-01-10"), ("2026-01-11", "2026-01-12"), ("2026-01-13", "2026-01-13")]


def test_champions_are_scored_once_on_what_they_never_saw(loop: Loop) -> None:
    context = loop.again()
    champion = context.registry.by_alias(context.vm_name("feed"), CHAMPION)
    assert champion is not None
    assert score_champions(context, LAST) == [], "its last labels are known a day later"
    first = score_champions(context, NEXT)
    assert [(f.part, f.version) for f in first if f.vertical == "feed"] == [(LAST, champion.version)]
    assert {"ne", "calibration"} <= set(first[0].metrics)
    assert score_champions(context, NEXT) == []
    rows = context.store.arrow("evaluations", context.store.newest("evaluations"), {}, None)
    live = rows.filter(pc.equal(rows["arm"], "live"))
    assert {"ne", "calibration", "drift"} <= set(live["metric"].to_pylist())
    assert all(coverage > 0 for coverage in live["coverage"].to_pylist())


def test_alarms_name_what_is_out_of_its_band(loop: Loop) -> None:
    context = loop.again()
    strict = context.config.schedule.model_copy(update={"max_drift": 1e-12, "max_quarantine": 1e-9})
    gate = context.config.gate.model_copy(update={"calibration_low": 5.0, "calibration_high": 6.0})
    context.config = context.config.model_copy(update={"schedule": strict, "gate": gate})
    score_champions(context, NEXT)
    found = {alarm.kind: alarm for alarm in alarms(context, LAST, live=True)}
    assert set(found) == {"lag", "quarantine", "drift", "calibration"}
    assert "after the declared lag" in found["lag"].text
    assert "lies outside 5.0 .. 6.0" in found["calibration"].text
    assert "lag" not in {alarm.kind for alarm in alarms(context, LAST, live=False)}


def test_a_lag_breach_is_measured_from_the_end_of_the_partition(loop: Loop) -> None:
    context, space = loop.again(), loop.result.spaces[0]
    entry = context.store.ledger.coverage("features", {"space_id": space.space_id})[LAST]
    late = entry.computed_at - context.dataset.clock.end(LAST) - context.dataset.lag
    text = next(a.text for a in alarms(context, LAST, live=True) if a.kind == "lag")
    assert f"{late / HOUR_MS:.1f} h after" in text


def test_a_partition_that_is_written_again_is_not_late_for_it(loop: Loop) -> None:
    context, space = loop.again(), loop.result.spaces[0]
    scope = {"space_id": space.space_id}
    entry = context.store.ledger.coverage("features", scope)[LAST]
    attempt = context.store.begin("features", scope, [LAST], FEATURES.info(context), {})
    again = [
        replace(e, state=DONE, version_written=99, computed_at=entry.computed_at + 9 * HOUR_MS)
        for e in attempt.entries(DONE)
    ]
    context.store.ledger.append(again)
    assert context.store.ledger.coverage("features", scope)[LAST].computed_at > entry.computed_at
    late = entry.computed_at - context.dataset.clock.end(LAST) - context.dataset.lag
    text = next(a.text for a in alarms(context, LAST, live=True) if a.kind == "lag" and space.space_id in a.text)
    assert f"{late / HOUR_MS:.1f} h after" in text


def test_drift_is_zero_for_equal_vectors_and_unknown_for_the_first(loop: Loop) -> None:
    context, space = loop.again(), loop.result.spaces[0]
    value = centroid_drift(context, space, LAST)
    assert value is not None
    assert 0 <= value < 0.1
    assert centroid_drift(context, space, loop.result.windows.outputs[0]) is None


def test_older_data_never_replaces_newer(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    context = loop.again()
    by_alias = context.registry.by_alias

    def older_challenger(name: str, alias: str) -> RegisteredModel | None:
        found = by_alias(name, CHAMPION)
        assert found is not None
        if alias != CHALLENGER:
            return found
        return replace(found, version="99", tags={**found.tags, "loopfm.trained_until": "2026-01-01"})

    monkeypatch.setattr(context.registry, "by_alias", older_challenger)
    with pytest.raises(GateError, match="trained until 2026-01-01, the champion until 2026-01-06: older data never"):
        judge(context, "feed")


def test_spaces_close_when_nobody_names_them(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    context = loop.again()
    judged = RegisteredModel("", "2", "", {"loopfm.space": "fm-newer", "loopfm.gate": "failed"})
    monkeypatch.setattr(context.registry, "models", lambda name: [judged])
    own = loop.result.spaces[0]
    older = replace(own, space_id="fm-older", fm_train_cutoff=own.fm_train_cutoff - 1)
    newer = replace(own, space_id="fm-newer", fm_train_cutoff=own.fm_train_cutoff + 1)
    context.spaces.add(older)
    context.spaces.add(newer)
    assert close_spaces(context) == ["fm-older"], "the champions' space and the newest stay"
    assert close_spaces(context, offered=own.space_id) == []
    assert close_spaces(context, offered="fm-newer") == ["fm-newer"]
    assert [space.space_id for space in context.spaces.active()] == [own.space_id]


def test_what_a_champion_was_trained_on_is_kept(loop: Loop) -> None:
    context = loop.again()
    pinned = pinned_versions(context)
    tags = context.registry.run_tags(needed_models(context, (CHAMPION, ROLLBACK))[0].run_id)
    for table in ("features", "histories"):
        assert int(tags[f"loopfm.version.{table}"]) in pinned[table]
    assert int(tags["loopfm.version.raw_histories"]) in pinned["histories"]
    assert "fm_inputs" in pinned, "the FM of the champion's space counts too"


def test_maintenance_removes_old_files_but_none_that_a_champion_was_trained_on(loop: Loop, tmp_path: Path) -> None:
    """The champion's tables were written again 40 and 20 days ago: only its pin keeps what it was trained on."""
    shutil.copytree(loop.root, tmp_path / "aged")
    context, space = loop_world.context(tmp_path / "aged"), loop.result.spaces[0]
    pinned = {table: pinned_versions(context)[table] for table in ("features", "histories")}
    trained_on = {table: _files(context, table, max(versions)) for table, versions in pinned.items()}
    for _ in range(2):
        features(context, space, loop.result.windows.vm)
    for table, versions in pinned.items():
        newest = context.store.newest(table)
        for version in range(newest + 1):
            days = 60 if version <= max(versions) else 40 if version < newest else 20
            age(context.store, table, version, days * 24)
        assert set(vacuum(context.store, table, [], dry_run=True)) & trained_on[table], "the pin alone keeps them"
    before = plan_backfill(context, loop.result.windows.vm, context.spaces.active()).writes
    maintain(context)
    for table, files in trained_on.items():
        missing = [file for file in files if not (Path(context.store.path(table)) / file).exists()]
        assert not missing
    assert plan_backfill(context, loop.result.windows.vm, context.spaces.active()).writes == before


def test_a_pin_that_can_no_longer_be_told_holds_up_no_other_table(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    context, kept = loop.again(), []

    def refuse(store: TableStore, table: str, pinned: object) -> list[str]:
        if table == "examples":
            raise ContractError("examples: version 3 is pinned and older than 365 days")
        kept.append(table)
        return []

    monkeypatch.setattr("pipelines.upkeep.vacuum", refuse)
    with pytest.raises(StepError, match="nothing was removed of 1 tables: examples: version 3 is pinned"):
        maintain(context)
    assert {"labels", "features"} <= set(kept)


def _files(context: RunContext, table: str, version: int) -> set[str]:
    folder = context.store.uri(table)
    return {file.path.removeprefix(f"{folder}/") for file in context.store.files(table, version, {}, None)}


def test_a_backfill_without_a_terminal_asks_for_yes(
    loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    import yaml

    monkeypatch.setenv("LOOPFM_HOME", str(loop.root))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    path = tmp_path / "project.yaml"
    path.write_text(yaml.safe_dump(loop_world.raw_settings()))
    assert main(["backfill", str(path), "--from", "2026-01-08", "--to", "2026-01-09"]) == 1
    shown = capsys.readouterr()
    assert "write examples" in shown.out
    assert "no terminal to ask at: add --yes" in shown.err
    assert main(["backfill", str(path), "--from", "2026-01-08", "--dry-run"]) == 0
