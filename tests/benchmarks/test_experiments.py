"""Experiments on VMs: kept scores, shares and intervals, windows, tables, and the four commands at small size."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import ablation, freshness, scaling, transfer
from benchmarks.ablation import verdict
from benchmarks.experiment_figures import ArmScores, add_equal_within
from benchmarks.experiment_output import Output, arm_rows, seeds_note
from benchmarks.experiment_scores import KeptScores, Scored
from benchmarks.experiments import Experiment, WorldSettings, arm_scores, each_world
from benchmarks.fm_swap import later
from benchmarks.freshness import delayed
from benchmarks.harness import CONF, BenchmarkError, MissingDataError, Report, load_settings
from benchmarks.projects import REPOSITORY, ProjectSettings
from benchmarks.transfer import early_windows
from models.bootstrap import PairedDifference
from models.metrics import Scores, normalized_entropy
from pipelines.context import RunContext
from pipelines.fm_declaration import has_batch_fm
from pipelines.windows import RunWindows, run_windows

MODULES = {"transfer": transfer, "freshness": freshness, "scaling": scaling, "ablation": ablation}
WINDOWS = RunWindows(
    fm_train=["01", "02", "03"], fm_validation=["04"], warm_up=["05", "06"],
    vm_train=["07", "08"], vm_validation=["09"], test=["10"],
)  # fmt: skip


def scores(strength, rows=4000, seed=0):
    """A model that knows ``strength`` of what there is to know."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(1.5 - 2 * hidden))).astype(np.float64)
    blurred = strength * hidden + math.sqrt(1 - strength**2) * np.random.default_rng(9).normal(size=rows)
    p = 1 / (1 + np.exp(1.5 - 2 * strength * blurred))
    ids, ones = np.arange(rows), np.ones(rows)
    none = np.zeros(rows, np.int64)
    has = {"fm_item": ids % 2 == 0}
    return Scores(ids, ids % 300, none, np.zeros(rows, bool), none, label, ones, ones, p, has)


def arms(**more):
    strengths = {"base": 0.3, "control": 0.5, "kd": 0.32, "loopfm": 0.7, "fm": 0.95, "fm calibrated": 0.95, **more}
    return ArmScores({arm: [scores(strength)] for arm, strength in strengths.items()})


def report():
    return Report("x", say=lambda line: None)


def test_scores_are_kept_whole(tmp_path):
    kept, one = KeptScores(tmp_path / "scores"), Scored(scores(0.5), 1200, 3.5, 0.9)
    assert kept.find("a") is None
    kept.keep("a", one)
    found = kept.find("a")
    assert (found.vm_bytes, found.rows_per_second, found.validation_ne) == (1200, 3.5, 0.9)
    for name, value in vars(one.scores).items():
        if name != "has_history":
            np.testing.assert_array_equal(getattr(found.scores, name), value)
    np.testing.assert_array_equal(found.scores.has_history["fm_item"], one.scores.has_history["fm_item"])
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["a.npz"]


def test_shares_are_gains_over_the_gain_of_the_fm():
    found = arms()
    ne = {arm: normalized_entropy(of[0].label, of[0].p) for arm, of in found.by_arm.items()}
    share = found.share("loopfm")
    assert share.value == pytest.approx((ne["base"] - ne["loopfm"]) / (ne["base"] - ne["fm"]))
    assert 0 < share.low < share.value < share.high < 1
    over = found.gain("loopfm", "control")
    assert over.value == pytest.approx(ne["control"] - ne["loopfm"])
    assert over.low < over.value < over.high
    points = found.share_difference("loopfm", "kd")
    assert points.value == pytest.approx(share.value - found.share("kd").value)
    assert points.low > 0


def test_no_share_where_the_fm_hardly_gains():
    assert math.isnan(arms(fm=0.29).share("loopfm").value)


def test_equal_within_looks_at_the_whole_interval():
    close, wide = (PairedDifference(0.0004, low, 0.0009, 0.0, 3) for low in (-0.0002, -0.0015))
    for difference, ok in ((close, True), (wide, False)):
        made = report()
        add_equal_within(made, "float", difference, 0.001)
        assert made.figures[-1].ok is ok


def test_the_table_of_arms_shows_gain_share_and_cost(tmp_path):
    costs = {"loopfm": [Scored(scores(0.7), 45_678, rate, 0.9) for rate in (1_000, 2_000)]}
    head, rows = arm_rows(arms(batch_fm=0.8), costs)
    Output(tmp_path).table("t", "arms", head, rows)
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert len(lines) == 4 + 7
    row = dict(zip(head, rows[3], strict=True))
    assert (row["arm"], row["VM bytes"], row["samples/s"]) == ("loopfm", "45,678", "1,500")
    beside = dict(zip(head, rows[6], strict=True))
    assert (beside["arm"], beside["VM bytes"], beside["samples/s"]) == ("FM on batch features", "", "")
    assert row["TR"] == f"{100 * arms().share('loopfm').value:.0f} %"
    assert "not a claim" in seeds_note(2)
    assert "not a claim" not in seeds_note(3)


def test_plots_are_written(tmp_path):
    Output(tmp_path).plot("p", ("x", "y"), {"a": [(0, 1), (1, 2)]}, ["fresh", "old"])
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_windows_of_early_late_and_old_fms():
    early = early_windows(WINDOWS)
    assert (early.fm_train, early.fm_validation) == (["01"], ["02"])
    assert early.vm_train == ["03", "04", "05", "06", "07", "08"]
    assert early.outputs == [*early.vm_train, "09", "10"]
    moved = later(WINDOWS, 1)
    assert (moved.fm_train, moved.fm_validation, moved.warm_up) == (["02", "03", "04"], ["05"], ["06"])
    assert delayed(WINDOWS, 0).fm_train == ["03", "04", "05"]
    assert delayed(WINDOWS, 2).fm_validation == ["04"]
    assert delayed(WINDOWS, 2).outputs == WINDOWS.vm
    assert moved.outputs == [*moved.warm_up, *WINDOWS.vm]
    window_later = later(WINDOWS, 3)
    assert (window_later.fm_train, window_later.fm_validation) == (["04", "05", "06"], ["07"])
    assert window_later.outputs == ["08", "09", "10"], "no row that the new FM has seen"
    with pytest.raises(BenchmarkError, match=r"got 4; allowed: 1 \.\. 3"):
        later(WINDOWS, 4)
    with pytest.raises(BenchmarkError, match=r"got 3; allowed: 0 \.\. 2"):
        delayed(WINDOWS, 3)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-0.001, 0.0015, "free"), (0.001, 0.004, "costs"), (-0.004, -0.001, "gains"), (-0.001, 0.004, "not told apart")],
)
def test_a_choice_is_free_only_where_its_whole_interval_is(low, high, words):
    assert verdict(low, high) == words


def test_claims_of_a_cadence_are_judged_by_its_limits():
    made = report()
    settings = freshness.FreshnessSettings(seeds=3, ideas=["decayed", "elsewhere"])
    others = {"batch_fm": 0.8, "decayed": 0.75, "fm calibrated": 0.97, "large_counters": 0.6, "control_untaught": 0.49}
    made_of = arms(**others)
    freshness._claims("hour_5m", made_of, settings, freshness.LIMITS["hour_5m"], made)
    judged = {figure.name: figure for figure in made.figures}
    assert str(judged["hour_5m_tr"].target) == ">=0.6"
    assert str(judged["hour_5m_over_kd"].target) == ">=0.55"
    assert judged["hour_5m_decayed_gain"].value == pytest.approx(made_of.gain("decayed", "loopfm").value)
    assert "hour_5m_elsewhere_gain" not in judged
    untaught = made_of.gain("loopfm", "control_untaught").value
    assert judged["hour_5m_over_control_untaught"].value == pytest.approx(untaught)
    assert not judged["hour_5m_seeds"].ok, "one seed is no claim"
    assert judged["hour_5m_tr_of_calibrated_fm"].value < judged["hour_5m_tr"].value
    assert judged["hour_5m_counters_tr"].value == pytest.approx(made_of.share("large_counters").value)
    assert judged["hour_5m_tr_of_batch_fm"].value > judged["hour_5m_tr"].value
    unjudged = report()
    of = arms(**{"batch_fm": 0.8, "fm calibrated": 0.97})
    freshness._claims("hour_5m", of, settings.model_copy(update={"short": True}), None, unjudged)
    assert unjudged.ok


def test_a_cell_may_not_change_the_tables(tmp_path):
    world = WorldSettings(project=ProjectSettings(base="conf/demo.yaml"))
    config = world.project.load()
    context = RunContext(config, "demo.yaml", root=str(tmp_path))
    opened = Experiment(world, context, report(), run_windows(config, "2026-01-01", "2026-01-11"))
    assert opened.config({"vm.base.units": [8]}).vm.base.units == [8]
    with pytest.raises(BenchmarkError, match="another data set is another world"):
        opened.config({"dataset.lag": "2h"})


def test_missing_data_is_no_evidence(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPFM_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="ebnerd_demo"):
        WorldSettings(project=ProjectSettings(base="conf/ebnerd.yaml"), data="ebnerd_demo").require()


@pytest.mark.parametrize("name", MODULES)
def test_every_cell_is_a_valid_project(name):
    settings = load_settings(MODULES[name].SETTINGS, CONF / f"{name}.yaml")
    worlds = getattr(settings, "cadences", {}) if name == "freshness" else getattr(settings, "worlds", {})
    for world in worlds.values() if worlds else [settings.world]:
        cells = getattr(settings, "cells", {})
        for changes in [{}, *(cell.changes for cell in cells.values()), *getattr(settings, "sizes", {}).values()]:
            world.project.load(changes)


def test_the_delay_of_teachers_runs_alone_and_cadences_need_their_cells():
    delay = load_settings(freshness.SETTINGS, CONF / "freshness_delay.yaml")
    whole = load_settings(freshness.SETTINGS, CONF / "freshness.yaml")
    assert (delay.cadences, delay.delay.delays) == ({}, list(range(8)))
    assert (delay.delay.world, delay.delay.cells) == (whole.delay.world, whole.delay.cells), "one workspace"
    freshness._require_cells(delay)
    freshness._require_cells(whole)
    with pytest.raises(BenchmarkError, match=r"cells of at_once: \['kd'\] are missing"):
        freshness._require_cells(
            whole.model_copy(update={"cells": {k: c for k, c in whole.cells.items() if k != "kd"}})
        )
    with pytest.raises(BenchmarkError, match=r"ideas, fewer: got \['nothing'\]"):
        freshness._require_cells(whole.model_copy(update={"ideas": ["nothing"]}))


def test_at_once_is_the_upper_end_of_the_curve_and_has_no_batch_fm():
    cadences = load_settings(freshness.SETTINGS, CONF / "freshness.yaml").cadences
    assert next(iter(cadences)) == "at_once"
    config = cadences["at_once"].project.load()
    assert config.dataset.history_clock.at_once
    assert not has_batch_fm(config.dataset, config.fm)
    assert has_batch_fm(cadences["hour_5m"].project.load().dataset, config.fm)


@pytest.mark.parametrize("batch", [{}, {"batch_fm": [scores(0.8), scores(0.8)]}])
def test_an_fm_on_batch_features_of_every_seed_stands_beside_the_arms_where_there_is_one(batch):
    opened = SimpleNamespace(
        space=lambda seed: seed,
        fm=lambda vertical, space, like: scores(0.95),
        calibrated_fm=lambda vertical, space, like: scores(0.95),
        batch_fm=lambda vertical, likes: batch if len(likes) == 2 else pytest.fail("one a seed"),
    )
    cells = {"base": [Scored(scores(0.3), 1, 1, 0.9)] * 2}
    found = arm_scores(opened, "feed", cells, 50, {"world_p": [scores(1.0)]})
    assert list(found.by_arm) == ["base", "fm", "fm calibrated", *batch, "world_p"]


def test_worlds_without_their_data_are_left_out_unless_all_are():
    def run(name, world):
        done.append(name)
        if name != "there":
            raise MissingDataError(f"no {name}")

    done, made, world = [], report(), WorldSettings(project=ProjectSettings(base="conf/demo.yaml"))
    each_world({"gone": world, "there": world}, made, run)
    assert done == ["gone", "there"]
    with pytest.raises(MissingDataError, match="no gone; no lost"):
        each_world({"gone": world, "lost": world}, made, run)


def test_the_default_world_shares_its_tables_between_transfer_and_scaling():
    of = load_settings(scaling.SETTINGS, CONF / "scaling.yaml")
    assert list(of.worlds) == ["ebnerd", "world"]
    assert len(of.sizes) == 5
    beside = load_settings(transfer.SETTINGS, CONF / "transfer.yaml").worlds
    assert {name: world.project for name, world in of.worlds.items()} == {
        name: beside[name].project for name in of.worlds
    }


@pytest.mark.parametrize("path", ["transfer", "transfer_short"])
def test_the_world_of_the_demo_has_a_key_of_user_and_category_that_all_arms_read(path):
    world = next(iter(load_settings(transfer.SETTINGS, CONF / f"{path}.yaml").worlds.values()))
    config = world.project.load()
    keys = {"user": ["user"], "item": ["item"], "user_category": ["user", "category"]}
    assert config.dataset.histories.keys == keys
    for readers in (config.vm.loopfm_readers, config.vm.raw_readers):
        assert [reader.key for reader in readers] == list(keys)


def test_distillation_of_old_teachers_is_weighed_on_validation_and_its_head_varied():
    delay = load_settings(freshness.SETTINGS, CONF / "freshness_delay.yaml").delay
    configs = {name: delay.world.project.load(cell.changes).vm for name, cell in delay.cells.items()}
    for name, vm in configs.items():
        assert vm.weights_to_try(delay.cells[name].arm) == ([] if name == "base" else [0, 0.1, 0.3, 1])
    heads = {name: vm.base.distillation for name, vm in configs.items() if vm.base.distillation.kind == "head"}
    scales = {name: (head.alpha, head.beta) for name, head in heads.items()}
    assert scales == {"kd_head": (1, 1), "kd_head_alpha": (2, 1), "kd_head_beta": (1, 0.5)}


def command(name, home, out):
    arguments = ["--conf", CONF / f"{name}_short.yaml", "--out", out]
    environment = {**os.environ, "LOOPFM_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("transfer", "tiny_feed_loopfm_tr_of_batch_fm"),
        ("freshness", "day_shop_over_kd"),
        ("scaling", "tiny_feed_large_loopfm_tr"),
        ("ablation", "feed_mixed_spaces_refused_0"),
    ],
)
def test_the_command_runs_small_and_goes_on_where_it_stopped(name, figure, tmp_path):
    done = command(name, tmp_path / "home", tmp_path / "out")
    assert done.returncode in (0, 1), done.stderr
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert any(line.split()[1] == figure for line in results)
    assert list(Path(tmp_path, "out").glob("*.md"))
    again = command(name, tmp_path / "home", tmp_path / "again")
    assert [line for line in again.stdout.splitlines() if line.startswith("RESULT")] == results
    assert "epoch" not in again.stdout + again.stderr


def test_on_a_generated_world_both_must_carry_twice_what_distillation_carries():
    for both, ok in ((0.7, True), (0.34, False)):
        made = report()
        made_of = arms(loopfm_kd=both, kd=0.4, world_vm=0.3, world_state=0.9)
        transfer._claims("world", made_of, "loopfm_kd", made, taught=True)
        judged = {figure.name: figure for figure in made.figures}
        expected = made_of.gain("loopfm_kd").value - 2 * made_of.gain("kd").value
        assert judged["world_over_twice_kd"].value == pytest.approx(expected)
        assert judged["world_over_twice_kd"].ok is ok
        assert str(judged["world_kd_carries"].target) == ">=0.1"
        assert judged["world_kd_could_carry"].value == pytest.approx(made_of.share("world_vm").value)
    untaught = report()
    transfer._claims("world", made_of, "loopfm_kd", untaught, taught=False)
    assert {figure.name: figure.target for figure in untaught.figures}["world_over_twice_kd"] is None


def test_transfer_ratios_stand_against_an_fm_on_batch_features_where_there_is_one():
    made, made_of = report(), arms(batch_fm=0.8)
    transfer._claims("world", made_of, "loopfm", made, taught=False)
    found = {figure.name: figure.value for figure in made.figures}
    assert found["world_loopfm_tr_of_batch_fm"] == pytest.approx(made_of.share("loopfm", of="batch_fm").value)
    assert found["world_loopfm_tr_of_batch_fm"] > found["world_loopfm_tr"]
    assert found["world_batch_fm_tr"] == pytest.approx(made_of.share("batch_fm").value)
    without = report()
    transfer._claims("world", arms(), "loopfm", without, taught=False)
    assert not [figure.name for figure in without.figures if "batch_fm" in figure.name]
