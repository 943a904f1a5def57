"""A figure a search method from its benchmark's JSON: what is measured is drawn, what is not is left out or named."""

import json

import pytest
import yaml

from benchmarks.harness import CONF, Report
from benchmarks.search_plots import DRAWN, draw, main

FIGURES = {
    "search_predictor": {
        "nb201_cifar100_random_mean": 72.2, "nb201_cifar100_random_sd": 0.5, "nb201_cifar100_random_seeds": 3,
        "nb201_cifar100_ax_mean": 73.1, "nb201_cifar100_ax_sd": 0.0, "nb201_cifar100_ax_seeds": 1,
        "tau_enas_repeats": 2, "tau_enas_single_mse": 0.58, "tau_enas_ensemble": 0.62,
    },
    "search_dvae": {
        "enas_epochs": 7, "enas_reconstruction": 0.97, "enas_prior_validity": 0.99, "enas_latent_ridge_rmse": 0.5,
        "enas_raw_ridge_rmse": 0.6,
    },
    "search_multi_step": {
        "eggholder_seeds": 2, "eggholder_ei_gap": 0.6, "eggholder_ei_gap_se": 0.1, "eggholder_12_eno_gap": 0.7,
        "eggholder_12_eno_gap_se": 0.1, "eggholder_ei_seconds_a_decision": 0.1, "dropwave_seeds": 0,
    },
    "search_binoculars": {
        "svm_seeds": 4, "svm_ei_gap": 0.6, "svm_binoculars_gap": 0.65,
        "quadrature_mixtures": 3, "quadrature_error_uncertainty": 0.02, "quadrature_error_binoculars": 0.01,
        "quadrature_error_integral": 0.005,
    },
    "search_ens": {
        "sequential_repeats": 5, "one_step_at_100": 28.0, "ens_300_at_300": 110.0,
        "batch_5_simulated_repeats": 5, "batch_5_simulated_at_300": 100.0,
    },
}  # fmt: skip
SHOWN = {
    "search_predictor": ["random", "(3)", "ax", "(1)", "Kendall tau", "ensemble, rank loss"],
    "search_dvae": ["enas: shares after 7 epochs", "prior_validity", "boosting", "raw"],
    "search_multi_step": ["GAP", "eggholder", "(2)", "12_eno", "processor seconds a decision"],
    "search_binoculars": ["svm", "(4)", "quadrature", "uncertainty", "integral", "(3)"],
    "search_ens": ["mean of 5 runs", "ens_300", "300 queries", "simulated"],
}
LEFT_OUT = {"search_dvae": "best value found", "search_multi_step": "dropwave", "search_predictor": "evolution"}


def written(tmp_path, name, figures):
    report = Report(name, yaml.safe_load((CONF / f"{name}.yaml").read_text()), say=lambda line: None)
    for figure, value in figures.items():
        report.add(figure, value)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(report.as_json()))
    return path


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_figure_shows_what_was_measured(tmp_path, name, capsys):
    source = written(tmp_path, name, FIGURES[name])
    assert main([str(source), "--out", str(tmp_path / "images")]) == 0
    path = tmp_path / "images" / f"{name}.svg"
    assert str(path) in capsys.readouterr().out
    svg = path.read_text()
    for text in SHOWN[name]:
        assert text in svg, text
    assert LEFT_OUT.get(name, "nowhere") not in svg
    first = path.read_bytes()
    draw(source, tmp_path / "images")
    assert path.read_bytes() == first


def test_nothing_to_draw_is_an_error(tmp_path, capsys):
    assert main([str(written(tmp_path, "search_ens", {"points": 39_788}))]) == 2
    assert "no run of search_ens has finished; give it more --seconds" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"benchmark": "day", "settings": {}, "figures": []}))
    assert main([str(other)]) == 2
    assert "other.json: is of day; there are figures of ['search_binoculars'" in capsys.readouterr().err
    assert main([str(tmp_path / "absent.json")]) == 2
    assert "absent.json: no figures of a benchmark" in capsys.readouterr().err
