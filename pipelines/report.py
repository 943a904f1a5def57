"""The HTML report: one file with everything in it, readable on a phone, in light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from pipelines import pages, plots
from pipelines.report_data import ReportData, VerticalReport
from pipelines.report_rows import (
    BOUNDS,
    TextTable,
    arms_table,
    decimals,
    percent,
    seeds_table,
    slices_table,
    value_lines,
)
from pipelines.summary import ONE_SEED


@dataclass(frozen=True)
class _Section:
    """What the template shows of one vertical."""

    vertical: VerticalReport
    lines: list[str]
    arms: TextTable
    slices: TextTable
    seeds: TextTable
    plots: list[tuple[str, Markup]]
    has_bounds: bool


def render_report(data: ReportData) -> str:
    """The report as one HTML document that loads nothing from elsewhere."""
    sections = [_section(vertical) for vertical in data.verticals]
    rates = list(dict.fromkeys(name for row in data.parts for name in row.label_rates))
    filters = {"percent": percent, "decimals4": decimals(4)}
    return pages.render("report.html.j2", filters, data=data, sections=sections, rates=rates, one_seed=ONE_SEED)


def write_report(data: ReportData, path: Path) -> Path:
    """Write the report to ``path``, its folder made where missing."""
    return pages.write(render_report(data), path)


def _section(vertical: VerticalReport) -> _Section:
    return _Section(
        vertical,
        value_lines(vertical),
        arms_table(vertical),
        slices_table(vertical),
        seeds_table(vertical),
        [(title, Markup(svg)) for title, svg in plots.comparison_plots(vertical).items()],
        any(arm in BOUNDS for arm in vertical.arms),
    )
