"""The value report: parts of the gain, what is lost where, and the page that shows it."""

from __future__ import annotations

import html
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.metrics import normalized_entropy
from pipelines.canary import CanaryResult, record
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.measure import Comparison
from pipelines.report_data import VerticalReport
from pipelines.value import ValueReport, leaks, measure_value, measured_lag, value_report, vertical_value
from pipelines.value_figures import AGE_SLICE, AGES, NO_TOKEN, age_slices, lost_figures, readout
from pipelines.value_page import closing_lines, render_value, value_lines, write_page
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop
from tests.pipelines.report_world import scores
from tests.pipelines.test_report import Tags

STRENGTH = {"base": 0.3, "raw": 0.5, "control": 0.6, "loopfm": 0.8, "raw_loopfm": 0.85, "fm_code": 0.9, "fm": 1.0}


def made_vertical() -> VerticalReport:
    arms = {arm: [scores(strength)] for arm, strength in STRENGTH.items()}
    ids = np.arange(3000)
    ages = {f"{AGE_SLICE}{name}": ids[place::5] for place, name in enumerate((*AGES, NO_TOKEN))}
    figures = [*Comparison(arms, {"user: new": ids[:900], **ages}, bootstrap=50).figures(), *lost_figures(arms, ages)]
    return VerticalReport("feed <b>", figures)


def made_report() -> ValueReport:
    return ValueReport(
        "shop", "now", 1, [vertical_value(made_vertical())], {"a vector": "8 bytes"}, {"planted": 0.2}, {}
    )


def test_the_parts_of_the_gain_are_differences_of_arms_on_the_same_rows() -> None:
    value = vertical_value(made_vertical())
    ne = {arm: normalized_entropy(s.label, s.p, s.weight) for arm, of in STRENGTH.items() for s in [scores(of)]}
    assert [part.name for part in value.parts] == ["I_temporal", "I_cross", "I_residual"]
    expected = [ne["base"] - ne["raw"], ne["raw"] - ne["raw_loopfm"], ne["loopfm"] - ne["raw_loopfm"]]
    np.testing.assert_allclose([part.value for part in value.parts], expected, atol=1e-9)
    assert all(part.low <= part.value <= part.high for part in value.parts)
    assert value.fm_gain == pytest.approx(ne["base"] - ne["fm"])
    assert value.codec == pytest.approx(ne["fm_code"] - ne["fm"])


def test_what_is_lost_by_age_adds_up_to_what_loopfm_misses_of_the_fm() -> None:
    value = vertical_value(made_vertical())
    assert list(value.lost) == [*AGES, NO_TOKEN]
    missed = value.fm_gain - value.gains["loopfm"].value
    assert sum(part.value for part in value.lost.values()) == pytest.approx(missed, abs=1e-9)


def test_a_readout_finds_the_chances_that_a_code_holds() -> None:
    rng = np.random.default_rng(0)
    z, weights = rng.normal(size=(5000, 4)), np.array([-2.0, 0.5, -1.0, 0.3, 0.0])
    p = 1 / (1 + np.exp(-(z @ weights[1:] + weights[0])))
    np.testing.assert_allclose(readout(z, p), weights, atol=1e-4)


def test_the_page_is_whole_and_names_what_is_missing() -> None:
    report = made_report()
    page = render_value(report)
    Tags().feed(page)
    assert "feed &lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<svg") == 2
    shown = html.unescape(page)
    assert "leak 'planted' would gain +0.2000 AUC" in shown
    assert "no scheduled run published a partition yet" in shown
    assert "no canary ran" in "\n".join(closing_lines(replace(report, leaks={})))
    assert any(line.startswith("I_cross +") for line in value_lines(report.verticals[0]))


def test_what_is_no_number_is_null_in_json() -> None:
    vertical = replace(made_report().verticals[0], codec=math.nan)
    plain = replace(made_report(), verticals=[vertical]).as_json()
    assert json.loads(json.dumps(plain, allow_nan=False))["verticals"][0]["codec"] is None


def test_the_report_of_a_run(copied: RunContext, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(StepError, match=r"no arm raw_loopfm: run `loopfm value test\.yaml`"):
        value_report(copied)
    before = copied.registry.versions(copied.vm_name("feed"))
    report = measure_value(copied, loop.result.windows, seeds=1)
    assert copied.registry.versions(copied.vm_name("feed")) == before, "a report registers nothing"
    assert [vertical.name for vertical in report.verticals] == ["feed", "shop"]
    for vertical in report.verticals:
        assert all(math.isfinite(part.value) for part in vertical.parts)
        missed = vertical.fm_gain - vertical.gains["loopfm"].value
        assert sum(part.value for part in vertical.lost.values()) == pytest.approx(missed, abs=1e-6)
        assert {s.name for s in vertical.slices} & {"user: light", "user: heavy"}
        assert vertical.freshness
    assert report.costs["a stored vector"] == "8 bytes"
    assert "VM of arm loopfm" in report.costs
    assert report.lag == measured_lag(copied) == {}
    page = write_page(report, Path(copied.root) / "value.html")
    assert page.read_text(encoding="utf-8").count("<svg") >= 2


def test_ages_are_those_of_the_newest_token_that_a_row_reads(loop: Loop) -> None:
    context, space, parts = loop.again(), loop.result.spaces[0], loop.result.windows.test
    slices = age_slices(context, "feed", space, parts, ["user", "item"])
    scope = {"space_id": space.space_id}
    rows = context.store.arrow("features", context.pin("features", scope, parts), scope, parts).to_pylist()
    stored = context.store.arrow("histories", context.pin("histories", scope, parts), scope, parts).to_pylist()
    newest = {(h["key"], h["key_id"], h["as_of"]): h["event_ts"][0] for h in stored}
    found = {int(example): name.removeprefix(AGE_SLICE) for name, ids in slices.items() for example in ids}
    own = [row for row in rows if row["vertical"] == "feed"]
    assert len(found) == len(own) == sum(len(ids) for ids in slices.values())
    for row in own[:200]:
        seen = [newest.get((key, row[f"key_{key}"], row["as_of"])) for key in ("user", "item")]
        ages = [row["event_ts"] - instant for instant in seen if instant is not None]
        expected = [n for n, (low, high) in AGES.items() if ages and low <= min(ages) < high] or [NO_TOKEN]
        assert [found[row["example_id"]]] == expected


def test_what_a_canary_found_is_in_the_report(copied: RunContext, loop: Loop) -> None:
    record(copied, CanaryResult({"fm_inputs": 0}, {"planted label": 0.25}, -0.01, True), loop.result.windows)
    assert leaks(copied) == {"planted label": 0.25}


def test_the_lag_is_that_of_scheduled_runs(copied: RunContext) -> None:
    assert measured_lag(copied) == {}
    scope = {"space_id": copied.spaces.active()[0].space_id}
    made = copied.store.ledger.coverage("features", scope)[loop_world.LAST]
    run_id = "demo_data/scheduled__2026-01-08/features"
    copied.store.ledger.append([replace(made, run_id=run_id, attempt=made.attempt + 1)])
    lag = measured_lag(copied)
    assert (lag["partitions"], lag["declared"]) == (1, 1)
    assert lag["median"] == lag["longest"] > 1000, "a backtest's partitions were published long after they closed"
