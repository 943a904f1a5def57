"""The report says what was measured, hides nothing that is missing and loads nothing from elsewhere."""

import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from feature_store.schemas import EVALUATIONS
from pipelines.measure import Figure
from pipelines.plots import ne_by_part
from pipelines.report import render_report, write_report
from pipelines.report_data import PART_SLICE, ReportData, VerticalReport, calibration_figures, figures_by_vertical
from pipelines.report_rows import arms_table, seeds_table, slices_table, value_lines
from pipelines.summary import summary
from tests.pipelines.report_world import PARTS, figures, report, scores

VOID = {"meta", "br", "path", "use", "line"}


class Tags(HTMLParser):
    """Every tag's attributes; fails on tags that are closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def one_seed() -> ReportData:
    return report()


@pytest.fixture(scope="module")
def page(one_seed: ReportData) -> str:
    return render_report(one_seed)


def _text(data: ReportData) -> str:
    stream = io.StringIO()
    Console(width=120, file=stream).print(summary(data))
    return stream.getvalue()


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    loads = [value for name, value in tags.attributes if name in ("src", "href", "xlink:href", "action", "data")]
    assert loads
    assert all(value.startswith("#") for value in loads)
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_ids_are_unique_so_that_plots_do_not_borrow_each_others_shapes(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    ids = [value for name, value in tags.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_light_dark_and_phone(page: str) -> None:
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert "currentColor" in page
    assert "#010203" not in page


def test_every_measured_figure_is_shown(one_seed: ReportData, page: str) -> None:
    vertical = one_seed.verticals[0]
    for arm in vertical.arms:
        for metric in ("ne", "auc", "gauc", "iauc"):
            value = vertical.value(arm, metric)
            assert value is not None
            assert f"<td>{value:.4f}</td>" in page
    control = vertical.find("loopfm", "ne_minus_control")
    assert control is not None
    assert f"{control.value:+.4f} [{control.low:+.4f}, {control.high:+.4f}]" in page
    for words in (
        "coverage item (FM tokens)",
        "coverage user (raw tokens)",
        "90 %",
        "bound: true p",
        "the true p",
        "user: new",
        "FM training",
        PARTS[-1],
    ):
        assert words in page


def test_a_transfer_ratio_is_the_share_of_the_fms_gain(one_seed: ReportData) -> None:
    vertical = one_seed.verticals[0]
    ne = {arm: vertical.value(arm, "ne") or 0 for arm in ("base", "loopfm", "fm")}
    share = 100 * (ne["base"] - ne["loopfm"]) / (ne["base"] - ne["fm"])
    table = arms_table(vertical)
    row = next(cells for title, cells, _ in table.rows if title == "+ LoopFM")
    assert row[table.columns.index("TR")] == f"{share:.0f} %"
    assert f"transfer ratio {share:.0f} %" in "\n".join(value_lines(vertical))


@pytest.mark.parametrize(
    ("column", "arm", "row"),
    [("TR of batch FM", "batch_fm", "FM on batch features"), ("TR of visible state", "world_state", "visible state")],
)
def test_a_transfer_ratio_stands_against_what_a_batch_could_carry(
    one_seed: ReportData, page: str, column: str, arm: str, row: str
) -> None:
    vertical, table = one_seed.verticals[0], arms_table(one_seed.verticals[0])
    base, own, whole = (vertical.value(name, "ne") or 0.0 for name in ("base", "loopfm", arm))
    cells = next(cells for title, cells, _ in table.rows if title == "+ LoopFM")
    assert cells[table.columns.index(column)] == f"{100 * (base - own) / (base - whole):.0f} %"
    assert f">{column}</th>" in page
    assert f"{row}</th>" in page


def test_names_and_reasons_are_escaped(page: str) -> None:
    for raw in ("shop <b>", "null <user>", "user: <heavy>", "abc & def"):
        assert raw not in page
        assert raw.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in page


def test_one_seed_is_no_claim_and_more_seeds_are_listed(one_seed: ReportData, page: str) -> None:
    assert "one seed: not a claim" in page
    assert "one seed: not a claim" in _text(one_seed)
    three = report(seeds=3)
    assert "one seed" not in render_report(three)
    assert "means of 3 seeds" in _text(three)
    table = seeds_table(three.verticals[0])
    assert table.columns == ["seed 0", "seed 1", "seed 2"]
    assert not seeds_table(one_seed.verticals[0]).rows


def test_missing_values_are_marked_and_empty_columns_left_out() -> None:
    found = [Figure("base", "all", "ne", 0.9, 10), Figure("fm", "all", "ne", math.nan, 10)]
    table = arms_table(VerticalReport("click", found))
    assert table.columns == ["NE", "rows"]
    assert table.rows == [("base", ["0.9000", "10"], "arm"), ("FM itself", ["-", "-"], "fm")]
    data = replace(report(), verticals=[VerticalReport("click", found)])
    assert "nan" not in re.sub(r"<style.*?</style>", "", render_report(data), flags=re.DOTALL).lower()
    assert "not measured side by side" in _text(data)


def test_a_report_without_any_figures_says_so() -> None:
    page = render_report(ReportData("empty", "now", 1, [], []))
    assert "Nothing was evaluated yet." in page
    assert "<svg" not in page


def test_sampled_rows_show_raw_and_corrected_figures() -> None:
    sampled = arms_table(report(sampling_rate=0.25).verticals[0])
    assert {"NE (sampled rows)", "calib. (sampled rows)"} <= set(sampled.columns)
    assert not {"NE (sampled rows)", "calib. (sampled rows)"} & set(arms_table(report().verticals[0]).columns)


def test_plots_need_something_to_draw(one_seed: ReportData, page: str) -> None:
    for title in ("NE per arm", "Calibration", "NE by partition", "Coverage by partition"):
        assert f"<figcaption>{title}</figcaption>" in page
    one_part = [f for f in one_seed.verticals[0].figures if f.slice in ("all", f"part: {PARTS[0]}")]
    bare = render_report(replace(one_seed, verticals=[VerticalReport("click", one_part)]))
    assert bare.count("<figcaption>") == 1


def test_a_worlds_bounds_are_drawn_by_partition() -> None:
    bounds = ("world_vm", "world_state", "world_p")
    found = [f for f in figures() if f.arm == "base" and f.slice.startswith(PART_SLICE)]
    drawn = ne_by_part(VerticalReport("click", found + [replace(f, arm=arm) for f in found for arm in bounds]))
    assert drawn is not None
    assert all(f"bound: {name}" in drawn for name in ("VM features", "visible state", "true p"))


def test_partitions_and_bins_are_no_rows_of_the_slice_table(one_seed: ReportData) -> None:
    assert [row[0] for row in slices_table(one_seed.verticals[0]).rows] == ["user: new", "user: <heavy>"]


def test_the_calibration_curve_keeps_the_sums() -> None:
    made = scores(0.8)
    found = calibration_figures("loopfm", made, bins=7)
    predicted = [f for f in found if f.metric == "predicted"]
    assert sum(f.value * f.rows for f in predicted) == pytest.approx(made.p.sum())
    assert sum(f.value * f.rows for f in found if f.metric == "observed") == pytest.approx(made.label.sum())
    assert [f.value for f in predicted] == sorted(f.value for f in predicted)


def test_rows_of_evaluations_come_back_as_the_same_figures() -> None:
    measured = figures(seeds=2)
    rows = [
        {
            "vertical": "click",
            "arm": f.arm,
            "slice": f.slice,
            "metric": f.metric,
            "value": f.value,
            "low": None if math.isnan(f.low) else f.low,
            "high": None if math.isnan(f.high) else f.high,
            "rows": f.rows,
            "seed": f.seed,
        }
        for f in measured
    ]
    table = pa.Table.from_pylist(rows, schema=EVALUATIONS)
    again = figures_by_vertical(table)["click"]
    assert arms_table(VerticalReport("click", again)) == arms_table(VerticalReport("click", measured))
    assert seeds_table(VerticalReport("click", again)) == seeds_table(VerticalReport("click", measured))


def test_the_report_is_the_same_for_the_same_figures(one_seed: ReportData, page: str, tmp_path: Path) -> None:
    path = write_report(one_seed, tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == page
