"""The whole loop on real Spark, Delta, torch and MLflow."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipelines.build_report import rebuild_report, report_data
from pipelines.config import ARMS
from pipelines.digest import digest
from pipelines.errors import StepError
from pipelines.plan import part_states, source_targets, space_targets
from pipelines.registry import CHAMPION
from pipelines.report_data import BIN_SLICE, PART_SLICE
from pipelines.run import run_loop
from pipelines.run_plots import PLOT_ARTIFACTS
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

VERTICALS = ["feed", "shop"]
TABLES = ["examples", "labels", "fm_inputs", "fm_outputs", "segments", "histories", "features"]


def versions(loop: Loop) -> dict[str, int]:
    return {table: loop.context.store.newest(table) for table in TABLES}


def test_every_arm_is_measured_on_the_same_rows(loop: Loop) -> None:
    for vertical in VERTICALS:
        ne = {f.arm: f for f in loop.result.figures[vertical] if f.metric == "ne" and f.slice == "all"}
        assert set(ARMS) | {"fm", "world_p", "world_state", "world_vm"} == set(ne)
        assert len({figure.rows for figure in ne.values()}) == 1
        assert all(math.isfinite(figure.value) for figure in ne.values())
        assert max(ne["world_p"].value, ne["world_state"].value) < ne["world_vm"].value


def test_tables_hold_each_example_once(loop: Loop) -> None:
    context = loop.context
    parts = loop.result.windows.parts
    examples = context.store.arrow("examples", context.pin("examples", {}, parts), {}, parts, ["example_id", "part"])
    assert len(pc.unique(examples["example_id"])) == len(examples) > 20_000
    space = loop.result.spaces[0]
    scope, outputs = {"space_id": space.space_id}, loop.result.windows.outputs
    made = context.store.arrow("fm_outputs", context.pin("fm_outputs", scope, outputs), scope, outputs, ["example_id"])
    late = context.store.arrow("examples", context.pin("examples", {}, outputs), {}, outputs, ["example_id"])
    assert sorted(made["example_id"].to_pylist()) == sorted(late["example_id"].to_pylist())


def test_no_row_before_the_cutoff_is_a_vm_row(loop: Loop) -> None:
    space, parts = loop.result.spaces[0], loop.result.windows.vm
    scope = {"space_id": space.space_id}
    rows = loop.context.store.arrow("features", loop.context.pin("features", scope, parts), scope, parts, ["event_ts"])
    assert pc.min(rows["event_ts"]).as_py() > space.fm_train_cutoff


def test_runs_name_all_that_made_them(loop: Loop) -> None:
    vm = next(vm for vm in loop.result.trained if vm.arm == "loopfm_kd")
    tags = loop.context.registry.run_tags(vm.run_id)
    assert tags["loopfm.space"] == loop.result.spaces[0].space_id
    assert tags["loopfm.train"] == "2026-01-04..2026-01-05"
    for table in ("features", "histories", "raw_histories"):
        assert int(tags[f"loopfm.version.{table}"]) >= 0
    assert {"loopfm.commit", "loopfm.seed", "loopfm.arm"} <= set(tags)
    fm = loop.context.registry.run_tags(loop.result.spaces[0].run_id)
    assert tags["loopfm.config"] == fm["loopfm.config"] == digest(loop.context.config)
    assert int(fm["loopfm.version.fm_inputs"]) >= 0


def test_the_run_of_an_fm_tells_its_settings_metrics_and_curve(loop: Loop) -> None:
    registry, run_id = loop.context.registry, loop.result.spaces[0].run_id
    settings = loop.context.config.fm.model_dump()
    assert registry.client.get_run(run_id).data.params == {name: str(value) for name, value in settings.items()}
    metrics = registry.run_metrics(run_id)
    names = [f"validation_{metric}" for metric in ("ne", "auc", "calibration")]
    names += [f"{name}_{head}" for name in names for head in VERTICALS]
    assert {name for name in metrics if name.startswith("validation_")} == set(names)
    curve = registry.curve(run_id, "epoch_validation_ne")
    assert len(curve) == loop.context.config.fm.train.epochs
    assert min(curve) == pytest.approx(metrics["validation_ne"])


def test_figures_of_every_slice_tell_its_coverage(loop: Loop) -> None:
    store = loop.context.store
    rows = store.arrow("evaluations", store.newest("evaluations"), {}, None).to_pylist()
    found = {row["slice"]: row["coverage"] for row in rows if (row["vertical"], row["arm"]) == ("feed", "loopfm")}
    told = {name for name, coverage in found.items() if 0 <= coverage <= 1}
    assert {"all", "user: heavy", "item: light", f"{PART_SLICE}{loop_world.LAST}"} <= told
    assert all(name.startswith(BIN_SLICE) for name in found.keys() - told)


def test_runs_show_their_plots(loop: Loop, tmp_path: Path) -> None:
    registry = loop.context.registry
    trained, compared = {"learning_curve.svg"}, {"ne_per_arm.svg", "calibration.svg"}
    expected = {vm.run_id: trained | compared for vm in loop.result.trained} | {loop.result.spaces[0].run_id: trained}
    for run_id, names in expected.items():
        found = registry.fetch_run_files(run_id, PLOT_ARTIFACTS, tmp_path / run_id)
        assert {path.name for path in found.iterdir()} == names
        assert all(path.read_text(encoding="utf-8").startswith("<svg") for path in found.iterdir())


def test_the_recipe_went_through_the_gate(loop: Loop) -> None:
    for vertical in VERTICALS:
        assert loop.result.gates[vertical].startswith("passed")
        champion = loop.context.registry.by_alias(f"loopfm-demo-{vertical}", CHAMPION)
        assert champion is not None
        trained = next(vm for vm in loop.result.trained if vm.vertical == vertical and vm.arm == "loopfm_kd")
        assert champion.run_id == trained.run_id


def test_the_same_run_again_writes_no_table_run_or_version(loop: Loop) -> None:
    before = versions(loop)
    context = loop.again()
    runs = len(context.registry.runs_with({}))
    models = context.registry.versions("loopfm-demo-feed")
    again = run_loop(context, loop.result.windows, ["base", "loopfm_kd"], seeds=1)
    assert versions(loop) == before
    assert len(context.registry.runs_with({})) == runs
    assert context.registry.versions("loopfm-demo-feed") == models
    assert again.spaces == loop.result.spaces


def test_everything_is_fresh_and_a_changed_setting_stales_its_own_tables(loop: Loop) -> None:
    space, parts = loop.result.spaces[0], loop.result.windows.vm
    context = loop.again()
    targets = source_targets(context) + space_targets(context, space)
    assert all(state.is_fresh for target in targets for state in part_states(context, target, parts).values())
    shorter = loop.again(histories={"keys": {"user": ["user"], "item": ["item"]}, "length": 7, "retention": "8d"})
    stale = {
        target.step.table
        for target in source_targets(shorter) + space_targets(shorter, space)
        if any(state.state == "stale" for state in part_states(shorter, target, parts).values())
    }
    assert stale == {"segments", "histories"}


def test_the_report_is_rebuilt_from_state_alone(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    page = rebuild_report(loop.again()).read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    for vertical in VERTICALS:
        assert f"demo / {vertical} (one seed: not a claim)" in printed
        assert f"<h2>{vertical}</h2>" in page
    data = report_data(loop.again())
    assert [window.name for window in data.windows] == ["VM train", "VM validation", "test"]
    assert data.quarantine
    assert sum(row.rejected for row in data.parts) > 0


def test_a_project_without_figures_says_what_to_run(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(StepError, match="nothing was evaluated yet; run `loopfm run"):
        report_data(loop_world.context(tmp_path))
