"""Plots as artifacts of the MLflow runs that they belong to: what the report shows, beside each run's own figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.context import RunContext

PLOT_ARTIFACTS = "plots"


def log_plots(context: RunContext, run_ids: Iterable[str], plots: Mapping[str, str]) -> None:
    """Copy SVG plots, by title, into the artifacts of each run; a plot of the same title is replaced."""
    with TemporaryDirectory(dir=context.scratch) as folder:
        for title, svg in plots.items():
            Path(folder, f"{title.lower().replace(' ', '_')}.svg").write_text(svg, encoding="utf-8")
        for run_id in run_ids:
            context.registry.log_files(run_id, Path(folder), PLOT_ARTIFACTS)
