"""The report of ``loopfm value`` as one HTML page, and as lines for a terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from pipelines import pages
from pipelines.plots import COLOURS, canvas
from pipelines.report_rows import MISSING, TextTable, arm_label, history_label, percent
from pipelines.summary import ONE_SEED
from pipelines.value import Part, SliceValue, ValueReport, VerticalValue
from pipelines.value_figures import NO_TOKEN

PART_WORDS = {
    "I_temporal": "raw history alone, no FM needed",
    "I_cross": "what the FM's vectors add to raw history",
    "I_residual": "what raw history adds to the FM's vectors (above 0: lost in them)",
}


@dataclass(frozen=True)
class _Section:
    """What the template shows of one vertical."""

    vertical: VerticalValue
    lines: list[str]
    arms: TextTable
    parts: TextTable
    lost: TextTable
    slices: TextTable
    freshness: TextTable
    plots: list[tuple[str, Markup]]


def value_lines(vertical: VerticalValue) -> list[str]:
    """What the FM is worth to a vertical, in sentences."""
    lines = [f"The FM gains {vertical.fm_gain:+.4f} NE over base"]
    if "loopfm" in vertical.gains:
        lines.append(f"LoopFM keeps {signed(vertical.gains['loopfm'])}, {_ratio(vertical, 'loopfm')}")
    lines += [f"{part.name} {signed(part)}: {PART_WORDS[part.name]}" for part in vertical.parts]
    if not math.isnan(vertical.codec):
        lines.append(f"A linear readout of the codes misses {vertical.codec:+.4f} of the FM: captured layer and codec")
    lines += [
        f"{part.value:+.4f} is lost on rows "
        + ("without a token" if name == NO_TOKEN else f"whose newest token is {name} old")
        for name, part in vertical.lost.items()
    ]
    lines += [f"{percent(s)} of the rows have a history: {history_label(k)}" for k, s in vertical.coverage.items()]
    return lines


def closing_lines(report: ValueReport) -> list[str]:
    """Costs, leaks and lag."""
    lines = [f"{name}: {value}" for name, value in report.costs.items()]
    lines += [f"leak '{name}' would gain {gain:+.4f} AUC" for name, gain in report.leaks.items()]
    if not report.leaks:
        lines.append("leaks: no canary ran on this project yet (`loopfm canary CONF`)")
    if report.lag:
        lag = report.lag
        lines.append(
            f"published {lag['median']:.2f} h after a partition closed (median), {lag['longest']:.2f} h at most, over "
            f"{lag['partitions']:.0f} scheduled ones; declared {lag['declared']:.2f} h"
        )
    else:
        lines.append("lag: no scheduled run published a partition yet")
    return lines


def print_value(report: ValueReport) -> None:
    """Print the report's lines to standard output."""
    claim = ONE_SEED if report.seeds == 1 else f"means of {report.seeds} seeds"
    for vertical in report.verticals:
        print(f"{report.project} / {vertical.name} ({claim})")
        print("\n".join(f"  {line}" for line in value_lines(vertical)))
    print("\n".join(closing_lines(report)))


def write_page(report: ValueReport, path: Path) -> Path:
    """Write the HTML page to ``path``, its folder made where missing."""
    return pages.write(render_value(report), path)


def render_value(report: ValueReport) -> str:
    """The report as one HTML document that loads nothing from elsewhere."""
    sections = [_section(vertical) for vertical in report.verticals]
    closing = closing_lines(report)
    return pages.render("value.html.j2", report=report, sections=sections, closing=closing, one_seed=ONE_SEED)


def signed(part: Part) -> str:
    """A gain with its interval."""
    if math.isnan(part.value):
        return MISSING
    return f"{part.value:+.4f}" + ("" if math.isnan(part.low) else f" [{part.low:+.4f}, {part.high:+.4f}]")


def _ratio(vertical: VerticalValue, arm: str) -> str:
    ratio = vertical.ratios.get(arm)
    return "no transfer ratio: the FM's gain is too uncertain" if ratio is None else f"transfer ratio {percent(ratio)}"


def _section(vertical: VerticalValue) -> _Section:
    arms = [
        (arm_label(arm), [signed(p), percent(vertical.ratios.get(arm))], "arm") for arm, p in vertical.gains.items()
    ]
    parts = [(part.name, [signed(part), PART_WORDS[part.name]], "arm") for part in vertical.parts]
    share = max(vertical.fm_gain, 1e-12)
    lost = [(_age(name), [f"{p.value:+.4f}", percent(p.value / share)], "arm") for name, p in vertical.lost.items()]
    drawn = [
        ("Where the FM's gain goes", _gain_plot(vertical)),
        ("Gain by age of the newest token", _age_plot(vertical)),
    ]
    return _Section(
        vertical,
        value_lines(vertical),
        TextTable(["NE gained over base (95 %)", "TR"], arms),
        TextTable(["NE (95 %)", "what it is"], parts),
        TextTable(["NE lost", "of the FM's gain"], lost),
        _slice_table(vertical.slices),
        _slice_table(vertical.freshness),
        [(title, Markup(svg)) for title, svg in drawn if svg is not None],
    )


def _slice_table(slices: list[SliceValue]) -> TextTable:
    rows = [
        (_age(s.name), [f"{s.rows:,}", f"{s.fm:+.4f}", f"{s.loopfm:+.4f}", percent(s.transfer_ratio)], "arm")
        for s in slices
    ]
    return TextTable(["rows", "FM over base", "LoopFM over base", "TR"], rows)


def _gain_plot(vertical: VerticalValue) -> str | None:
    """What LoopFM keeps, then what is lost by age of histories, as bars end to end that fill the FM's gain."""
    kept = vertical.gains.get("loopfm")
    if kept is None or math.isnan(kept.value) or not vertical.lost:
        return None
    bars = [("kept", kept.value, COLOURS["loopfm"]), *((n, p.value, COLOURS["fm"]) for n, p in vertical.lost.items())]
    with canvas(f"value-{vertical.name}", height=0.34 * len(bars) + 1.0) as (axes, svg):
        start = 0.0
        for place, (_, width, colour) in enumerate(bars):
            axes.barh(place, width, left=start, color=colour)
            start += width
        axes.axvline(vertical.fm_gain, color=COLOURS["base"], linestyle=":", linewidth=1)
        axes.set_yticks(range(len(bars)), [name if name == "kept" else f"lost: {_age(name)}" for name, _, _ in bars])
        axes.invert_yaxis()
        axes.set_xlabel("NE over base; dotted: the FM itself")
    return svg[0]


def _age(name: str) -> str:
    return "no token" if name == NO_TOKEN else name


def _age_plot(vertical: VerticalValue) -> str | None:
    found = vertical.freshness
    if len(found) < 2:
        return None
    with canvas(f"freshness-{vertical.name}", height=3.2) as (axes, svg):
        places = range(len(found))
        axes.plot(places, [s.fm for s in found], "o-", color=COLOURS["fm"], label="FM itself", markersize=3)
        axes.plot(places, [s.loopfm for s in found], "o-", color=COLOURS["loopfm"], label="+ LoopFM", markersize=3)
        axes.set_xticks(list(places), [_age(s.name) for s in found])
        axes.set_ylabel("NE gained over base")
        axes.set_xlabel("age of the newest token that a row can read")
        axes.figure.legend(loc="outside upper left", fontsize=9, ncols=2)
    return svg[0]
