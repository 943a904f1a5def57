"""What the EB-NeRD benchmark takes from a run's figures, and when it cannot."""

import pytest

from benchmarks.ebnerd import SETTINGS, add_claims, body
from benchmarks.harness import CONF, BenchmarkError, MissingDataError, Report, load_settings
from pipelines.measure import Figure


def figures(**changed):
    values = {
        ("fm", "auc"): 0.825, ("fm", "ne"): 0.812, ("base", "ne"): 0.911, ("control", "ne"): 0.879,
        ("loopfm", "ne"): 0.859,
        ("control", "tr"): 0.32, ("loopfm", "tr"): 0.53,
        ("batch_fm", "ne"): 0.82, ("loopfm", "tr_of_batch_fm"): 0.57,
    }  # fmt: skip
    rows = [Figure(arm, "all", metric, value, 100) for (arm, metric), value in values.items()]
    rows += [Figure(arm, "all", metric, 99.0, 100, seed=0) for arm, metric in values]
    rows += [Figure(arm, "user: new", metric, 99.0, 10) for arm, metric in values]
    gain = changed.get("ne_minus_control", -0.02)
    return [*rows, Figure("loopfm", "all", "ne_minus_control", gain, 100, gain - 0.004, gain + 0.003)]


def test_claims_are_means_over_all_rows_and_seeds():
    report = Report("ebnerd")
    add_claims(figures(), report)
    found = {figure.name: figure for figure in report.figures}
    assert report.ok
    assert found["gain_over_control"].value == pytest.approx(0.02)
    assert found["gain_over_control_low"].value == pytest.approx(0.017)
    assert found["gain_over_control_high"].value == pytest.approx(0.024)
    assert found["fm_auc"].value == 0.825
    assert (found["batch_fm_ne"].value, found["transfer_ratio_of_batch_fm"].value) == (0.82, 0.57)
    assert str(found["transfer_ratio"].target) == ">=0.45"


def test_a_small_gain_falls_short():
    report = Report("ebnerd")
    add_claims(figures(ne_minus_control=-0.0119), report)
    assert [figure.name for figure in report.figures if not figure.ok] == ["gain_over_control"]


def test_a_missing_figure_is_named():
    with pytest.raises(BenchmarkError, match="no ne_minus_control of loopfm"):
        add_claims(figures()[:-1], Report("ebnerd"))


def test_without_the_data_there_is_no_evidence(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPFM_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="ebnerd_demo"):
        body(load_settings(SETTINGS, CONF / "ebnerd.yaml"), Report("ebnerd"))


def test_the_readers_of_the_claim_are_item_keyed():
    config = load_settings(SETTINGS, CONF / "ebnerd.yaml").project.load()
    for arm in ("control", "loopfm"):
        assert [reader.key for reader in config.vm.arm(arm).readers] == ["item"]
