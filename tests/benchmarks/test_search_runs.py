"""Runs that are kept one by one, functions on grids and their GAP, and the settings of the search benchmarks."""

import json

import numpy as np
import pytest
import torch

from benchmarks import search_binoculars, search_dvae, search_ens, search_multi_step
from benchmarks.harness import CONF, MissingDataError, Report, load_settings
from benchmarks.search_functions import Problem, paired_interval, problem, run
from benchmarks.search_state import Key, Runs, resumable
from feature_store.config import Strict


class Corner:
    """Always decides for the corner of the cube."""

    def decide(self, belief, left, k, seed, observed):
        return torch.ones(k, belief.points.shape[-1], dtype=torch.float64)


def counting(done):
    def one(key):
        done.append(key)
        return {"value": key.seed}

    return one


KEYS = [Key("bowl", method, seed) for seed in range(3) for method in ("a", "b")]


def test_finished_runs_are_not_run_again(tmp_path):
    path, done = tmp_path / "state" / "runs.jsonl", []
    Runs(path, {"steps": 1}).complete(KEYS[:3], counting(done), Report("x", say=print))
    Runs(path, {"steps": 1}).complete(KEYS, counting(done), Report("x", say=print))
    assert done == KEYS
    runs = Runs(path, {"steps": 1})
    assert runs.seeds("bowl", ["a", "b"]) == [0, 1, 2]
    assert runs.get("bowl", "a", 2)["value"] == 2


def test_runs_of_other_settings_and_half_lines_do_not_count(tmp_path):
    path, done = tmp_path / "runs.jsonl", []
    Runs(path, {"steps": 1}).complete(KEYS, counting(done), Report("x", say=print))
    with path.open("a") as file:
        file.write('{"settings": "12", "func')
    assert not Runs(path, {"steps": 2}).results
    assert len(Runs(path, {"steps": 1}).results) == 6


def test_a_run_after_half_a_line_is_kept(tmp_path):
    path, done = tmp_path / "runs.jsonl", []
    path.write_text('{"settings": "12", "func')
    Runs(path, {}).complete(KEYS[:1], counting(done), Report("x", say=print))
    assert list(Runs(path, {}).results) == KEYS[:1]


def test_no_run_begins_after_the_time_given(tmp_path):
    done = []
    runs = Runs(tmp_path / "runs.jsonl", {}, seconds=-1)
    runs.complete(KEYS, counting(done), Report("x", say=print))
    assert done == []
    assert runs.seeds("bowl", ["a"]) == []


def test_the_state_is_an_option_of_the_command(tmp_path):
    class Empty(Strict):
        pass

    conf, state = tmp_path / "conf.yaml", tmp_path / "s.jsonl"
    conf.write_text("{}\n")

    def body(settings, report, runs):
        runs.complete(KEYS[:1], counting([]), report)
        report.add("runs", len(runs.results))

    arguments = ["--conf", str(conf), "--state", str(state)]
    assert resumable("x", Empty, body, lambda settings: {}, 1, arguments) == 0
    assert [json.loads(line)["function"] for line in state.read_text().splitlines()] == ["bowl"]
    assert resumable("x", Empty, body, lambda settings: {}, 1, arguments) == 0
    assert len(state.read_text().splitlines()) == 1, "a finished run is not run again"
    assert resumable("x", Empty, body, lambda settings: {}, 2, arguments) == 0
    assert len(state.read_text().splitlines()) == 2, "later code runs it anew"


def test_a_grid_gives_each_point_once_nearest_first():
    grid = torch.tensor([[0.0], [0.4], [1.0]], dtype=torch.float64)
    session = Problem(1, 3.0, grid=grid, values=torch.tensor([1.0, 2.0, 3.0])).session()
    found = [session.evaluate(torch.tensor([0.45], dtype=torch.float64))[1] for _ in range(3)]
    assert found == [2.0, 1.0, 3.0]


def test_gap_is_the_share_of_the_way_to_the_optimum():
    # The optimum lies in the corner, which the first decision evaluates.
    task = Problem(1, 1.0, evaluate=lambda point: float(point[0]))
    gaps = run(task, Corner(), 0)["gap"]
    assert len(gaps) == 20
    assert gaps[0] == pytest.approx(1.0)
    lower = run(Problem(1, 2.0, evaluate=lambda point: float(point[0])), Corner(), 0)["gap"]
    assert 0 < lower[0] < 1


def test_test_functions_have_their_optimum_in_the_cube():
    egg, wave = problem("eggholder"), problem("dropwave")
    assert egg.evaluate(torch.tensor([1.0, (404.2319 + 512) / 1024])) == pytest.approx(egg.optimum, rel=1e-4)
    assert wave.evaluate(torch.tensor([0.5, 0.5])) == pytest.approx(wave.optimum)


def test_missing_tables_are_no_evidence(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPFM_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="search/enbo"):
        problem("svm")


def test_paired_intervals_cover_the_mean():
    difference = np.random.default_rng(0).normal(0.3, 1.0, 80)
    low, high = paired_interval(difference, 0.9)
    half = 1.645 * difference.std() / 80**0.5
    assert (low, high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.03)


@pytest.mark.parametrize("module", [search_ens, search_multi_step, search_binoculars])
def test_settings_are_valid(module):
    name = module.__name__.split(".")[-1]
    settings = load_settings(module.SETTINGS, CONF / f"{name}.yaml")
    assert json.dumps(module.depends(settings))


def test_searches_share_the_runs_of_ei():
    chosen = [
        load_settings(m.SETTINGS, CONF / f"{m.__name__.split('.')[-1]}.yaml")
        for m in (search_multi_step, search_binoculars)
    ]
    assert search_multi_step.depends(chosen[0]) == search_binoculars.depends(chosen[1])


def test_errors_of_integrals_are_compared_on_the_mixtures_that_all_methods_have(tmp_path):
    settings = load_settings(search_binoculars.SETTINGS, CONF / "search_binoculars.yaml").quadrature
    name, runs = search_binoculars.quadrature_name(settings), Runs(tmp_path / "runs.jsonl", {})
    last = {"log_det": (0.4, 0.1, 0.4), "integral": (0.1, 0.2, 0.4), "uncertainty": (0.2, 0.3, 0.3, 0.9)}

    def figures():
        report = Report("search_binoculars", say=lambda line: None)
        search_binoculars.add_quadrature(settings, runs, report)
        return report, {figure.name: figure.value for figure in report.figures}

    assert np.isnan(figures()[1]["quadrature_error_integral"])
    keys = [Key(name, method, seed) for method, errors in last.items() for seed in range(len(errors))]
    runs.complete(keys, lambda key: {"errors": [1.0, last[key.method][key.seed]]}, Report("x", say=lambda line: None))
    report, found = figures()
    assert not report.ok
    assert found["quadrature_mixtures"] == 3
    targets = {figure.name: str(figure.target) for figure in report.figures}
    assert (targets["quadrature_error_integral"], targets["quadrature_error_log_det"]) == ("<=0.3", "None")
    assert [found[f"quadrature_error_{method}"] for method in last] == [0.4, 0.2, 0.3]
    assert found["quadrature_integral_nearer"] == pytest.approx(2 / 3)
    assert found["quadrature_log_det_nearer"] == pytest.approx(1 / 3)


def test_a_d_vae_whose_time_is_over_trains_no_further_and_says_what_is_left(tmp_path, monkeypatch):
    class Task:
        name, train_y = "cells", ()

    class Half:
        def __init__(self, task, training, settings, report, over):
            assert over(), "the time given reaches the training"
            self.whole, self.history = False, [None] * 2

    settings = load_settings(search_dvae.SETTINGS, CONF / "search_dvae.yaml")
    monkeypatch.setattr(search_dvae, "open_task", lambda *given: Task())
    monkeypatch.setattr(search_dvae, "Trained", Half)
    said = []
    report = Report("search_dvae", say=said.append)
    search_dvae.body(settings, report, Runs(tmp_path / "runs.jsonl", {}, seconds=-1))
    assert any("the time given is over: 2 of 80 epochs of enas" in line for line in said)
    assert not report.ok


def kept_gaps(path, seeds):
    """Runs of EI and 12-ENO on both test functions: the latter is .2 better with even seeds, .3 with odd ones."""
    runs = Runs(path, {})
    keys = [Key(name, method, seed) for name in search_multi_step.POOLED for method in GAPS for seed in range(seeds)]
    runs.complete(keys, lambda key: {"gap": [GAPS[key.method][key.seed % 2]]}, Report("x"))
    return runs


GAPS = {"ei": (0.5, 0.5), "12_eno": (0.7, 0.8)}


@pytest.mark.parametrize(("seeds", "ok"), [(3, False), (4, True)])
def test_a_claim_on_fewer_seeds_than_it_needs_is_short(tmp_path, seeds, ok):
    functions = [
        search_multi_step.FunctionSettings(name=name, seeds=4, methods=list(GAPS)) for name in search_multi_step.POOLED
    ]
    report = Report("x", say=lambda line: None)
    search_multi_step.add_pooled(functions, kept_gaps(tmp_path / "runs.jsonl", seeds), report)
    found = {figure.name: figure for figure in report.figures}
    assert found["eno_minus_ei"].value == pytest.approx(0.2 + 0.1 * (seeds // 2) / seeds)
    assert found["eno_minus_ei_low"].ok is ok
