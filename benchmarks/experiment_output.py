"""Tables in Markdown and plots in SVG that a benchmark of experiments leaves in a folder."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from benchmarks.experiment_figures import BASE, CLAIM_SEEDS, FM, NO_CLAIM, ArmScores, Interval
from benchmarks.experiment_scores import Scored
from benchmarks.harness import Report, benchmark
from feature_store.config import Strict
from pipelines.config import home
from pipelines.report_rows import arm_label

Settings = TypeVar("Settings", bound=Strict)
Points = Sequence[tuple[float, float]]
MANY_TICKS = 6
METRICS = ("auc", "gauc", "iauc", "calibration")


@dataclass(frozen=True)
class Output:
    """Where a benchmark leaves its tables and plots."""

    folder: Path

    def table(self, name: str, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write NAME.md: a titled table."""
        lines = [f"### {title}", "", _row(head), _row(["---"] * len(head)), *map(_row, rows)]
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.md").write_text("\n".join(lines) + "\n")

    def plot(
        self,
        name: str,
        labels: tuple[str, str],
        lines: Mapping[str, Points],
        ticks: Sequence[str] = (),
        *,
        log: bool = False,
        joined: bool = True,
    ) -> None:
        """Write NAME.svg: one line of points a name.

        Args:
            name: of the file.
            labels: of the axes.
            lines: points of each line.
            ticks: names of the places 0, 1 .. on the x axis.
            log: the x axis is logarithmic.
            joined: points of a line are joined.
        """
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=(6.4, 3.6), layout="constrained")
        axes = canvas.add_subplot()
        for line, points in lines.items():
            axes.plot(*zip(*points, strict=True), "o-" if joined else "o", label=line, markersize=4)
        axes.set_xscale("log" if log else "linear")
        if ticks:
            turned: dict[str, Any] = {"rotation": 40, "ha": "right"} if len(ticks) > MANY_TICKS else {}
            axes.set_xticks(range(len(ticks)), list(ticks), **turned)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        canvas.legend(loc="outside upper left", ncols=3, fontsize=9, frameon=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        FigureCanvasSVG(canvas).print_svg(self.folder / f"{name}.svg", metadata={"Date": None})


def experiment_benchmark(
    name: str,
    settings: type[Settings],
    body: Callable[[Settings, Report, Output], None],
    argv: Sequence[str] | None = None,
) -> int:
    """``benchmark`` with ``--out FOLDER`` for tables and plots (default: below LOOPFM_HOME); returns its exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", add_help=False)
    parser.add_argument("--out", type=Path, help="folder of tables and plots (default: LOOPFM_HOME/benchmarks/NAME)")
    own, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    output = Output(own.out or Path(home(), "benchmarks", name))
    return benchmark(name, settings, lambda chosen, report: body(chosen, report, output), rest)


def arm_rows(arms: ArmScores, costs: Mapping[str, Sequence[Scored]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of arms: metrics, gain over base with its interval, transfer ratio, costs.

    What is no VM has no costs and is called as in a run's report. Samples are those scored, histories read included.
    """
    head = ["arm", "NE", "gain over base (95 %)", "AUC", "gAUC", "iAUC", "calibration", "TR", "VM bytes", "samples/s"]
    rows = []
    for arm in arms.by_arm:
        gain = "" if arm == BASE else with_interval(arms.gain(arm))
        share = 0.0 if arm == BASE else arms.share(arm).value if FM in arms.by_arm else math.nan
        own = costs.get(arm, [])
        metrics = [number(arms.metric(arm, metric)) for metric in METRICS]
        named = arm if own else arm_label(arm)
        rows.append([named, number(arms.metric(arm, "ne")), gain, *metrics, percent(share), *_costs(own)])
    return head, rows


def _costs(own: Sequence[Scored]) -> list[str]:
    """Means over the seeds of a VM."""
    if not own:
        return ["", ""]
    return [f"{fmean(cost):,.0f}" for cost in ([s.vm_bytes for s in own], [s.rows_per_second for s in own])]


def seeds_note(seeds: int) -> str:
    """What a title says of the number of seeds."""
    return f"{seeds} seeds" if seeds >= CLAIM_SEEDS else f"{seeds} seed{'s' * (seeds > 1)}; {NO_CLAIM}"


def number(value: float) -> str:
    """Four places, or nothing for nan."""
    return "" if math.isnan(value) else f"{value:.4f}"


def percent(value: float) -> str:
    """A share as a percentage."""
    return "" if math.isnan(value) else f"{100 * value:.0f} %"


def with_interval(of: Interval) -> str:
    """A signed value with its interval."""
    return f"{of.value:+.4f} [{of.low:+.4f}, {of.high:+.4f}]"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
