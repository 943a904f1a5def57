"""RESULT lines, targets, exit codes and JSON of every benchmark's command."""

import json
import math

import pytest

from benchmarks.harness import (
    BenchmarkError,
    Figure,
    MissingDataError,
    Report,
    at_least,
    at_most,
    benchmark,
    machine_facts,
)
from feature_store.config import Strict


class Size(Strict):
    rows: int


@pytest.fixture
def conf(tmp_path):
    path = tmp_path / "size.yaml"
    path.write_text("rows: 7\n")
    return path


def run(conf, body, *more):
    return benchmark("size", Size, body, ["--conf", str(conf), *more])


@pytest.mark.parametrize(
    ("figure", "line"),
    [
        (Figure("ratio", 0.8125, at_least(0.8)), "RESULT ratio 0.8125 >=0.8 ok"),
        (Figure("ratio", 0.7999, at_least(0.8)), "RESULT ratio 0.7999 >=0.8 short"),
        (Figure("growth", 1.2, at_most(1.2)), "RESULT growth 1.2 <=1.2 ok"),
        (Figure("growth", 1.21, at_most(1.2)), "RESULT growth 1.21 <=1.2 short"),
        (Figure("cold", 0.1), "RESULT cold 0.1 - ok"),
        (Figure("ratio", math.nan, at_least(0.8)), "RESULT ratio nan >=0.8 short"),
        (Figure("ratio", math.nan, at_most(0.8)), "RESULT ratio nan <=0.8 short"),
    ],
)
def test_a_result_line_holds_figure_value_target_and_verdict(figure, line):
    assert figure.line == line


def test_results_are_the_last_lines_and_in_order(conf, capsys):
    def body(settings, report):
        report.add("first", settings.rows, at_least(7))
        print("something a library prints")
        report.add("second", 2.0)

    assert run(conf, body) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["RESULT first 7 >=7 ok", "RESULT second 2 - ok"]


def test_a_missed_target_fails_the_command(conf, capsys):
    assert run(conf, lambda settings, report: report.add("growth", 2.0, at_most(1.2))) == 1
    assert "RESULT growth 2 <=1.2 short" in capsys.readouterr().out


def test_a_skip_succeeds_without_a_result(conf, capsys, tmp_path):
    def body(settings, report):
        report.add("early", 1.0)
        raise MissingDataError("no data under /nowhere")

    target = tmp_path / "out.json"
    assert run(conf, body, "--json", str(target)) == 0
    seen = capsys.readouterr()
    assert "RESULT" not in seen.out
    assert "SKIPPED size: no data under /nowhere" in seen.err
    assert not target.exists()


def test_broken_conditions_are_neither_a_skip_nor_a_miss(conf, capsys):
    def body(settings, report):
        report.add("early", 1.0)
        raise BenchmarkError("the loop took 3 s")

    assert run(conf, body) == 2
    seen = capsys.readouterr()
    assert "RESULT" not in seen.out
    assert "FAILED size: the loop took 3 s" in seen.err


def test_settings_are_validated_by_field(tmp_path, capsys):
    path = tmp_path / "size.yaml"
    path.write_text("rows: many\n")
    assert run(path, lambda settings, report: None) == 2
    assert "rows" in capsys.readouterr().err


def test_json_holds_figures_settings_and_machine(conf, tmp_path):
    def body(settings, report):
        report.add("ratio", 0.5, at_least(0.8))
        report.add("undefined", math.nan)

    target = tmp_path / "out.json"
    run(conf, body, "--json", str(target))
    content = json.loads(target.read_text())
    assert content["benchmark"] == "size"
    assert content["settings"] == {"rows": 7}
    assert content["figures"] == [
        {"name": "ratio", "value": 0.5, "target": ">=0.8", "ok": False},
        {"name": "undefined", "value": None, "target": "-", "ok": True},
    ]
    assert content["machine"] == machine_facts()
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["torch"] != "absent"


def test_a_figure_name_holds_no_blanks():
    with pytest.raises(BenchmarkError, match="blanks"):
        Report("size").add("two words", 1.0)
