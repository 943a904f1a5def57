"""One figure a search method, drawn from what its benchmark measured.

``python -m benchmarks.search_plots FILE [FILE ..] [--out FOLDER]``: each FILE was written by
``python -m benchmarks.search_NAME --json FILE``; FOLDER (default: docs/images) gets search_NAME.svg.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import BenchmarkError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUT = Path(__file__).parents[1] / "docs/images"
COLOURS = ("#0a7fd0", "#e69f00", "#009e73", "#d55e00", "#7a6fd0")
PANEL_WIDTH, HEIGHT = 4.6, 3.2
LEVEL_PLACES = 6
SPREAD = 0.5
"""Of the unit between two places on the axis, what the series at one place take."""


@dataclass(frozen=True)
class Series:
    """``values`` by place; ``errors`` of the same length, or empty. None: not measured."""

    label: str
    values: list[float | None]
    errors: list[float | None]


@dataclass(frozen=True)
class Panel:
    """Dots with error bars at named places."""

    title: str
    places: list[str]
    series: list[Series]

    @property
    def measured(self) -> bool:
        """Whether there is anything to draw."""
        return any(value is not None for one in self.series for value in one.values)


class Measured:
    """Figures and settings of one run of a benchmark."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.name, self.settings = str(content["benchmark"]), content["settings"]
        self._values: dict[str, float | None] = {figure["name"]: figure["value"] for figure in content["figures"]}

    def get(self, name: str) -> float | None:
        """A figure, or None where it was not measured."""
        return self._values.get(name)

    def series(self, label: str, names: Sequence[str], error: str | None = None) -> Series:
        """Figures of one series; the error of a figure is the one named like it and ``error``."""
        return Series(label, [self.get(n) for n in names], [self.get(n + error) for n in names] if error else [])

    def counted(self, label: str, count: str) -> str:
        """``label`` and how many runs its figures are a mean of."""
        found = self.get(count)
        return label if found is None else f"{label}\n({found:g})"


def predictor(m: Measured) -> list[Panel]:
    """Best of 100 evaluations by method; rank correlation by table."""
    table = "nb201_cifar100"
    methods = [n for n in ("random", "evolution", "tpe", "ax", "predictor", "ranked") if m.get(f"{table}_{n}_mean")]
    found = Series(
        "", [m.get(f"{table}_{n}_mean") for n in methods], [m.get(f"{table}_{n}_sd") for n in methods]
    )  # fmt: skip
    places = [m.counted(method, f"{table}_{method}_seeds") for method in methods]
    tables = [name for name in ("enas", table, "nasbench_graph_arxiv") if m.get(f"tau_{name}_repeats")]
    taus = [
        m.series(label, [f"tau_{name}_{kind}" for name in tables])
        for label, kind in (("one MLP, squared error", "single_mse"), ("ensemble, rank loss", "ensemble"))
    ]
    return [
        Panel("NAS-Bench-201 CIFAR-100, best of 100\nvalidation accuracy, % ± sd (seeds)", places, [found]),
        Panel("Kendall tau on held-out graphs (repeats)", [m.counted(n, f"tau_{n}_repeats") for n in tables], taus),
    ]


def multi_step(m: Measured) -> list[Panel]:
    """GAP and cost of a decision by function."""
    return _gaps(m)


def binoculars(m: Measured) -> list[Panel]:
    """GAP by function; error of integrals."""
    kinds = ("uncertainty", "log_det", "integral")
    errors = m.series("", [f"quadrature_error_{kind}" for kind in kinds])
    title = "quadrature, median |error| / integral (mixtures)"
    return [_gaps(m)[0], Panel(title, [m.counted(kind, "quadrature_mixtures") for kind in kinds], [errors])]


def ens(m: Measured) -> list[Panel]:
    """Positives found by policy, one by one and in batches."""
    budgets, sizes = m.settings["budgets"], m.settings["batch_sizes"]
    policies = ["one_step", "two_step", *(f"ens_{budget}" for budget in budgets)]
    alone = [m.series(policy, [f"{policy}_at_{budget}" for budget in budgets]) for policy in policies]
    queries = m.settings["batch_queries"]
    batches = [
        m.series(p, [f"batch_{size}_{p}_at_{queries}" for size in sizes]) for p in ("myopic", "simulated", "greedy")
    ]
    repeats = m.get("sequential_repeats") or 0
    return [
        Panel(
            f"CiteSeer: positives found, mean of {repeats:g} runs", [f"{budget} queries" for budget in budgets], alone
        ),
        Panel(
            f"in batches, after {queries} queries (runs)",
            [m.counted(f"batches of {size}", f"batch_{size}_simulated_repeats") for size in sizes],
            batches,
        ),
    ]


def dvae(m: Measured) -> list[Panel]:
    """What a D-VAE decodes, what its latents tell, and the search among them."""
    task = next(iter(m.settings["tasks"]))
    decoded = ("reconstruction", "prior_validity", "uniqueness", "novelty")
    regressions = ("ridge", "sparse", "exact", "boosting")
    told = [m.series(k, [f"{task}_{k}_{method}_rmse" for method in regressions]) for k in ("latent", "raw")]
    methods = ("random", "evolution", "latent")
    places = [m.counted(method, f"{task}_search_seeds") for method in methods]
    return [
        Panel(
            f"{task}: shares after {m.get(f'{task}_epochs') or 0:g} epochs",
            list(decoded),
            [m.series("", [f"{task}_{d}" for d in decoded])],
        ),
        Panel(f"{task}: RMSE of a model of the target", list(regressions), told),
        Panel(
            f"{task}: best value found (seeds)",
            places,
            [m.series("", [f"{task}_search_{method}" for method in methods])],
        ),
    ]


def _gaps(m: Measured) -> list[Panel]:
    functions = [f for f in m.settings["functions"] if m.get(f"{f['name']}_seeds")]
    names = [function["name"] for function in functions]
    methods = list(dict.fromkeys(method for function in functions for method in function["methods"]))
    places = [m.counted(name, f"{name}_seeds") for name in names]
    gaps = [m.series(method, [f"{name}_{method}_gap" for name in names], "_se") for method in methods]
    costs = [m.series(method, [f"{name}_{method}_seconds_a_decision" for name in names]) for method in methods]
    return [Panel("GAP ± standard error (seeds)", places, gaps), Panel("processor seconds a decision", places, costs)]


DRAWN: dict[str, Callable[[Measured], list[Panel]]] = {
    "search_predictor": predictor,
    "search_dvae": dvae,
    "search_multi_step": multi_step,
    "search_binoculars": binoculars,
    "search_ens": ens,
}


def draw(source: Path, folder: Path) -> Path:
    """The figure of the benchmark whose JSON ``source`` is; the file written.

    Raises:
        BenchmarkError: ``source`` cannot be read, is of another benchmark, or holds nothing to draw.
    """
    try:
        measured = Measured(json.loads(source.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{source}: no figures of a benchmark ({error!r}); write it with --json FILE") from error
    if measured.name not in DRAWN:
        raise BenchmarkError(f"{source}: is of {measured.name}; there are figures of {sorted(DRAWN)}")
    panels = [panel for panel in DRAWN[measured.name](measured) if panel.measured]
    if not panels:
        raise BenchmarkError(f"{source}: no run of {measured.name} has finished; give it more --seconds")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{measured.name}.svg"
    _write(panels, path)
    return path


def _write(panels: list[Panel], path: Path) -> None:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": path.stem,
        "font.size": 8,
        "figure.constrained_layout.use": True,
    }
    with matplotlib.rc_context(settings):
        # A page shows the file as an image, which takes no colour from it: hence paper of its own.
        figure = Figure(figsize=(PANEL_WIDTH * len(panels), HEIGHT), facecolor="white")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, panel)
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(str(path), metadata=metadata)


def _draw(axes: Axes, panel: Panel) -> None:
    for number, (series, colour) in enumerate(zip(panel.series, COLOURS, strict=False)):
        offset = SPREAD * ((number + 0.5) / len(panel.series) - 0.5)
        known = [place for place, value in enumerate(series.values) if value is not None]
        if not known:
            continue
        values = [series.values[place] or 0.0 for place in known]
        errors = [series.errors[place] or 0.0 for place in known] if series.errors else None
        label = series.label or None
        axes.errorbar(
            [place + offset for place in known], values, errors, fmt="o", color=colour, capsize=2, label=label
        )
    # Level names of more places than these run into each other.
    steep = 60 if len(panel.places) > LEVEL_PLACES else 0
    axes.set_xticks(range(len(panel.places)), panel.places, rotation=steep)
    axes.set_xlim(-0.5, len(panel.places) - 0.5)
    axes.set_title(panel.title)
    axes.grid(axis="y", alpha=0.25)
    if any(series.label for series in panel.series):
        axes.legend(frameon=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw every file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_plots", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="written by a search benchmark's --json")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="where to write (default: docs/images)")
    arguments = parser.parse_args(argv)
    try:
        for source in arguments.files:
            print(f"wrote {draw(source, arguments.out)}")
    except BenchmarkError as error:
        print(f"FAILED search_plots: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
