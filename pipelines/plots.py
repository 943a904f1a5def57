"""Plots of a report as inline SVG: text and axes take the page's colour, so that both light and dark are readable."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.measure import BATCH_FM_ARM, FM_ARM, WORLD_P, WORLD_STATE, WORLD_VM, Figure
from pipelines.report_data import BIN_SLICE, COVERAGE, PART_SLICE, VerticalReport
from pipelines.report_rows import BOUNDS, arm_label, history_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"
COLOURS = {
    "base": "#888888",
    "counters": "#cc79a7",
    "raw": "#e69f00",
    "control": "#b8860b",
    "kd": "#56b4e9",
    "loopfm": "#009e73",
    "loopfm_kd": "#0a7fd0",
    FM_ARM: "#d55e00",
    BATCH_FM_ARM: "#e0a080",
    WORLD_VM: "#b0b0b0",
    WORLD_STATE: "#7a6fd0",
    WORLD_P: "#505050",
}
LINES = ("base", "raw", "control", "loopfm", "loopfm_kd", FM_ARM)
WITH_HISTORY = ("loopfm", "loopfm_kd", "control", "raw")
SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
MAX_TICKS = 6
WIDTH = 5.6


def comparison_plots(vertical: VerticalReport) -> dict[str, str]:
    """All plots of a vertical's comparison by title, in the order of the report; those without figures are left out."""
    drawn = {
        "NE per arm": ne_by_arm(vertical),
        "Calibration": calibration_curve(vertical),
        "NE by partition": ne_by_part(vertical),
        "Coverage by partition": coverage_by_part(vertical),
    }
    return {title: svg for title, svg in drawn.items() if svg is not None}


def learning_curve(values: Sequence[float]) -> dict[str, str]:
    """The plot of one training, by title: its validation NE after every epoch."""
    with canvas("learning-curve", height=3.2) as (axes, svg):
        _draw(axes, "validation NE", COLOURS["loopfm"], ([float(n + 1) for n in range(len(values))], list(values)))
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation NE")
        axes.grid(axis="y", alpha=0.25)
    return {"Learning curve": svg[0]}


def ne_by_arm(vertical: VerticalReport) -> str | None:
    """NE of every arm as a dot, with the 95 % interval of its difference to base as a bar. None without figures."""
    found = {arm: figure for arm in vertical.arms if (figure := vertical.find(arm, "ne")) is not None}
    if not found:
        return None
    arms = list(found)
    with canvas(f"ne-{vertical.name}", height=0.34 * len(arms) + 1.0) as (axes, svg):
        for place, arm in enumerate(arms):
            low, high = _interval(vertical, arm, found[arm])
            colour = COLOURS.get(arm, "#888888")
            axes.plot([low, high], [place, place], color=colour, linewidth=3, alpha=0.5, solid_capstyle="butt")
            axes.plot([found[arm].value], [place], "o", color=colour, markersize=7)
        axes.set_yticks(range(len(arms)), [arm_label(arm) for arm in arms])
        axes.invert_yaxis()
        axes.set_xlabel("NE; bar: 95 % interval against base")
        axes.grid(axis="x", alpha=0.25)
    return svg[0]


def calibration_curve(vertical: VerticalReport) -> str | None:
    """Observed rate over mean prediction, in groups of equal rows. None without calibration figures."""
    bins = vertical.slices(BIN_SLICE)
    if not bins:
        return None
    with canvas(f"calibration-{vertical.name}", height=3.6) as (axes, svg):
        axes.axline((0, 0), slope=1, color=INK, linewidth=0.8, linestyle=":")
        for arm in (arm for arm in LINES if arm in vertical.arms):
            predicted = [vertical.value(arm, "predicted", name) for name in bins]
            observed = [vertical.value(arm, "observed", name) for name in bins]
            _draw(axes, arm_label(arm), COLOURS[arm], _known(predicted, observed))
        axes.set_xlabel("mean prediction")
        axes.set_ylabel("observed rate")
        _legend(axes)
    return svg[0]


def ne_by_part(vertical: VerticalReport) -> str | None:
    """NE of the main arms and a generated world's bounds in every test partition. None with fewer than two."""
    shown = [arm for arm in (*LINES, *BOUNDS) if arm in vertical.arms]
    lines = [_Line(arm_label(arm), (arm,), "ne", COLOURS[arm]) for arm in shown]
    return _by_part(vertical, "NE", "ne-part", lines)


def coverage_by_part(vertical: VerticalReport) -> str | None:
    """Share of rows with a readable history, per key, in every partition. None with fewer than two partitions."""
    keys = vertical.history_keys
    lines = [_Line(history_label(key), WITH_HISTORY, f"{COVERAGE}{key}", None) for key in keys]
    return _by_part(vertical, "share of rows with a history", "coverage", lines, top=1.03)


class _Line(NamedTuple):
    """One line of a plot by partition: the metric of the first of ``arms`` that has it."""

    label: str
    arms: Sequence[str]
    metric: str
    colour: str | None


def _by_part(
    vertical: VerticalReport, label: str, name: str, lines: Sequence[_Line], top: float | None = None
) -> str | None:
    parts = vertical.slices(PART_SLICE)
    if len(parts) < 2 or not lines:
        return None
    with canvas(f"{name}-{vertical.name}", height=3.2) as (axes, svg):
        for line in lines:
            values = [_first(vertical.value(arm, line.metric, part) for arm in line.arms) for part in parts]
            _draw(axes, line.label, line.colour, _known(range(len(parts)), values))
        axes.set_ylabel(label)
        if top is not None:
            axes.set_ylim(0, top)
        _part_ticks(axes, parts)
        _legend(axes)
    return svg[0]


@contextmanager
def canvas(name: str, height: float) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; on leaving, the second element holds the SVG. ``name`` makes the ids in it unique on a page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    svg: list[str] = []
    settings: Any = {**SETTINGS, "svg.hashsalt": name}
    with matplotlib.rc_context(settings):
        figure = Canvas(figsize=(WIDTH, height))
        figure.patch.set_visible(False)
        axes = figure.add_subplot(facecolor="none")
        yield axes, svg
        stream = io.StringIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        svg.append(_inline(stream.getvalue(), name))


def _inline(document: str, name: str) -> str:
    """An SVG element that scales with the page, takes its text colour and has no ids in common with another."""
    body = document[document.index("<svg") :]
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = body.replace("<svg", f'<svg role="img" aria-label="{_attribute(name)}"', 1)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    return body.replace(INK, "currentColor")


def _attribute(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9 _-]", "", text)


def _interval(vertical: VerticalReport, arm: str, ne: Figure) -> tuple[float, float]:
    """The interval of ``arm`` minus base, laid around the arm's NE."""
    difference = vertical.find(arm, "ne_minus_base")
    if difference is None or difference.low != difference.low:
        return ne.value, ne.value
    return ne.value + difference.low - difference.value, ne.value + difference.high - difference.value


def _known(x: Sequence[float | None] | range, y: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """The points both of whose coordinates are known."""
    pairs = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _first(values: Iterator[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)


def _draw(axes: Axes, label: str, colour: str | None, points: tuple[list[float], list[float]]) -> None:
    if points[0]:
        axes.plot(*points, "o-", color=colour, label=label, markersize=3)


def _part_ticks(axes: Axes, parts: Sequence[str]) -> None:
    step = max(1, -(-len(parts) // MAX_TICKS))
    places = list(range(0, len(parts), step))
    axes.set_xticks(places, [parts[p].removeprefix(PART_SLICE) for p in places], rotation=30, ha="right")
    axes.grid(axis="y", alpha=0.25)


def _legend(axes: Axes) -> None:
    """A legend above the plot, so that it hides no line."""
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(loc="outside upper left", fontsize=9, ncols=3)
