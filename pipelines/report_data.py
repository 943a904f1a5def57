"""What a report shows, as plain data: figures of every vertical, the windows and data behind them, their lineage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from models.metrics import Scores
from pipelines.measure import ALL_ROWS, BATCH_FM_ARM, FM_ARM, WORLD_P, WORLD_STATE, WORLD_VM, Figure

PART_SLICE = "part: "
BIN_SLICE = "bin: "
COVERAGE = "coverage_"
STALENESS = "staleness_hours"

ARM_LABELS: Mapping[str, str] = {
    "base": "base",
    "kd": "+ KD",
    "raw": "+ raw history",
    "counters": "+ batch counters",
    "control": "+ control",
    "control_kd": "+ control + KD",
    "loopfm": "+ LoopFM",
    "loopfm_kd": "+ LoopFM + KD",
    "raw_loopfm": "+ raw + LoopFM",
    "raw_loopfm_kd": "+ raw + LoopFM + KD",
    FM_ARM: "FM itself",
    BATCH_FM_ARM: "FM on batch features",
    "fm_code": "FM, read from its codes",
    WORLD_VM: "bound: VM features",
    WORLD_STATE: "bound: visible state",
    WORLD_P: "bound: true p",
}
"""Arms in the order of every table; the bounds, of a generated world only, are E[p | VM features], E[p | VM features,
true state as of the newest visible partition] and the true p."""


@dataclass(frozen=True)
class Window:
    """A named window of a run, both parts included."""

    name: str
    first: str
    last: str


@dataclass(frozen=True)
class PartRow:
    """One partition of the source: rows kept and rejected, and the label rate of each vertical (of known labels)."""

    part: str
    rows: int
    rejected: int
    label_rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class VerticalReport:
    """Everything measured on one vertical.

    Args:
        name: the vertical.
        figures: rows of ``evaluations``. Slice ``all`` fills the table of arms; ``part: P`` the plots by partition,
            ``bin: N`` (of ``calibration_figures``) the calibration curve; every other slice a row of the slice table.
        gate: the verdict of the gate and its reasons, where it ran.
        model: registered name and version, where there is one.
    """

    name: str
    figures: Sequence[Figure]
    gate: str | None = None
    model: str | None = None

    @cached_property
    def _index(self) -> dict[tuple[str, str, str], Figure]:
        return {(f.arm, f.metric, f.slice): f for f in self.figures if f.seed is None}

    @property
    def arms(self) -> list[str]:
        """Arms that have figures, in the order of tables."""
        present = {figure.arm for figure in self.figures}
        return [arm for arm in ARM_LABELS if arm in present] + sorted(present - set(ARM_LABELS))

    def find(self, arm: str, metric: str, slice_name: str = ALL_ROWS) -> Figure | None:
        """The mean over seeds of one metric, None where it was not measured or is undefined."""
        figure = self._index.get((arm, metric, slice_name))
        return None if figure is None or math.isnan(figure.value) else figure

    def value(self, arm: str, metric: str, slice_name: str = ALL_ROWS) -> float | None:
        """Like ``find``, the value alone."""
        figure = self.find(arm, metric, slice_name)
        return None if figure is None else figure.value

    def slices(self, prefix: str) -> list[str]:
        """Slices whose name starts with ``prefix``, in order of name."""
        return sorted({f.slice for f in self.figures if f.slice.startswith(prefix)})

    @property
    def named_slices(self) -> list[str]:
        """Slices of the slice table, in order of first appearance."""
        names = dict.fromkeys(f.slice for f in self.figures)
        return [n for n in names if n != ALL_ROWS and not n.startswith((PART_SLICE, BIN_SLICE))]

    @property
    def history_keys(self) -> list[str]:
        """Keys of histories whose coverage was measured."""
        metrics = {f.metric for f in self.figures if f.metric.startswith(COVERAGE)}
        return sorted(metric.removeprefix(COVERAGE) for metric in metrics)


@dataclass(frozen=True)
class ReportData:
    """A report's content.

    Args:
        project: name of the data set.
        created: when the report was made, as text.
        seeds: seeds behind every figure; 1 is marked as no claim.
        windows: the windows of the run, in order of time.
        verticals: what was measured.
        fm: named facts of the FM's training, shown as they are.
        parts: the source by partition.
        quarantine: reason -> rows.
        lineage: named facts of where the figures come from: space, Delta versions, commit, config digest, command.
    """

    project: str
    created: str
    seeds: int
    windows: Sequence[Window]
    verticals: Sequence[VerticalReport]
    fm: Mapping[str, str] = field(default_factory=dict)
    parts: Sequence[PartRow] = ()
    quarantine: Mapping[str, int] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)


def figures_by_vertical(evaluations: pa.Table) -> dict[str, list[Figure]]:
    """Figures from rows of the table ``evaluations``: one comparison, thus one figure a (vertical, arm, slice, metric).

    A row without seed is a mean over seeds.
    """
    found: dict[str, list[Figure]] = {}
    for row in evaluations.to_pylist():
        low, high = (math.nan if row[name] is None else row[name] for name in ("low", "high"))
        value = math.nan if row["value"] is None else row["value"]
        figure = Figure(row["arm"], row["slice"], row["metric"], value, row["rows"], low, high, row["seed"])
        found.setdefault(row["vertical"], []).append(figure)
    return found


def calibration_figures(arm: str, scores: Scores, bins: int = 10) -> list[Figure]:
    """Mean prediction and observed rate in ``bins`` groups of equal rows, by prediction: the calibration curve."""
    order = np.argsort(scores.p, kind="stable")
    figures = []
    for place, rows in enumerate(np.array_split(order, bins)):
        if len(rows) == 0:
            continue
        name, weight = f"{BIN_SLICE}{place:02d}", scores.weight[rows]
        for metric, values in (("predicted", scores.p[rows]), ("observed", scores.label[rows])):
            figures.append(Figure(arm, name, metric, float(np.average(values, weights=weight)), len(rows)))
    return figures
