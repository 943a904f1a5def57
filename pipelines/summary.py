"""The end of a run in the terminal: the table of arms and what the FM is worth, per vertical."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.measure import FM_ARM, Figure
from pipelines.report_data import COVERAGE, ReportData, VerticalReport
from pipelines.report_rows import BOUNDS, MISSING, arm_label, decimals, history_label, percent, value_lines

ONE_SEED = "one seed: not a claim"
WIDTH = 88


def print_summary(data: ReportData) -> None:
    """Print ``summary`` to standard output, never narrower than its tables."""
    Console(width=max(WIDTH, Console().width)).print(summary(data))


def summary(data: ReportData) -> Group:
    """Per vertical the table of arms, the FM's value, coverage and the verdict of the gate."""
    parts: list[RenderableType] = []
    for vertical in data.verticals:
        parts.append(_heading(data, vertical))
        if vertical.arms:
            parts.append(_table(vertical))
        parts += [Text(f"  {line}") for line in (*value_lines(vertical), *_closing(vertical))]
        parts.append(Text(""))
    return Group(*parts)


def _heading(data: ReportData, vertical: VerticalReport) -> Text:
    claim = ONE_SEED if data.seeds == 1 else f"means of {data.seeds} seeds"
    return Text(f"{data.project} / {vertical.name} ({claim})", style="bold")


def _table(vertical: VerticalReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", no_wrap=True)
    for name in ("NE", "vs base (95 %)", "AUC", "gAUC", "iAUC", "calib.", "TR"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in vertical.arms:
        style = "dim" if arm in BOUNDS else "bold" if arm == FM_ARM else ""
        table.add_row(Text(arm_label(arm)), *_row(vertical, arm), style=style)
    return table


def _row(vertical: VerticalReport, arm: str) -> list[Text]:
    metrics = [decimals(4)(vertical.value(arm, name)) for name in ("auc", "gauc", "iauc")]
    cells = [
        decimals(4)(vertical.value(arm, "ne")),
        _short_difference(vertical.find(arm, "ne_minus_base")),
        *metrics,
        decimals(3)(vertical.value(arm, "calibration")),
        percent(vertical.value(arm, "tr")),
    ]
    return [Text(cell) for cell in cells]


def _short_difference(figure: Figure | None) -> str:
    """A difference and half the width of its interval."""
    if figure is None:
        return MISSING
    half = (figure.high - figure.low) / 2
    return f"{figure.value:+.4f}" if math.isnan(half) else f"{figure.value:+.4f} ±{half:.4f}"


def _closing(vertical: VerticalReport) -> list[str]:
    """Coverage of the histories, and the gate."""
    lines = []
    for key in vertical.history_keys:
        shares = [vertical.value(arm, f"{COVERAGE}{key}") for arm in vertical.arms]
        known = [share for share in shares if share is not None]
        if known:
            lines.append(f"{percent(max(known))} of the rows have a readable history: {history_label(key)}")
    return lines if vertical.gate is None else [*lines, f"gate {vertical.gate}"]
