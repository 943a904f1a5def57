"""EB-NeRD: what a run costs from raw files to the report, and what the FM's vectors are worth over three seeds.

The protocol is that of conf/ebnerd.yaml: hourly partitions and 5 minutes of lag; the readers of LoopFM and of its
control are item-keyed here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import BenchmarkError, MissingDataError, Report, at_least, at_most, benchmark, timed
from benchmarks.memory import measured_command
from benchmarks.projects import ProjectSettings, command_environment, workspace
from feature_store.config import Strict
from pipelines.config import DATA_ROOT_SETTING, Arm, data_root
from pipelines.context import RunContext
from pipelines.measure import ALL_ROWS, BATCH_FM_ARM, FM_ARM, Figure
from pipelines.run import run_loop
from pipelines.windows import run_range, run_windows

FM_AUC, FM_NE, BASE_NE = 0.82, 0.816, 0.913
GAIN_OVER_CONTROL, TRANSFER = 0.012, 0.45
MINUTES, GIGABYTES = 15.0, 8.0
ARMS: list[Arm] = ["base", "control", "loopfm"]


class EbnerdSettings(Strict):
    """``project``: the protocol with item-keyed readers; ``one_seed``: the YAML file whose run is timed."""

    project: ProjectSettings
    one_seed: ProjectSettings
    folder: str
    vertical: str
    seeds: int


SETTINGS = EbnerdSettings


def body(settings: EbnerdSettings, report: Report) -> None:
    """Time the one-seed run, then go on to three seeds on the tables that it wrote.

    Raises:
        MissingDataError: the data set is not there.
    """
    data = data_root() / settings.folder
    if not data.is_dir():
        raise MissingDataError(f"no data set at {data}; {DATA_ROOT_SETTING} names the folder that holds it")
    with workspace(settings.one_seed.load(), report) as context:
        run_one_seed(context, report)
        context.config = settings.project.load()
        with timed(report, f"{settings.seeds} seeds"):
            figures = seeds(context, settings)
    add_claims(figures, report)


def run_one_seed(context: RunContext, report: Report) -> None:
    """``loopfm run`` from raw files to the report, all arms, in a process of its own."""
    log = Path(context.root, "run.log")
    command = [sys.executable, "-m", "pipelines.cli", "run", context.origin]
    with timed(report, "loopfm run, one seed, all arms"):
        done = measured_command(command, command_environment(context), log)
    if done.returncode:
        raise BenchmarkError(f"loopfm run failed: {log.read_text()[-3000:]}")
    report.add("one_seed_minutes", done.seconds / 60, at_most(MINUTES))
    report.add("one_seed_peak_gb", done.peak_bytes / 1e9, at_most(GIGABYTES))


def seeds(context: RunContext, settings: EbnerdSettings) -> list[Figure]:
    """Figures of base, control, LoopFM and the FM over all seeds."""
    windows = run_windows(context.config, *run_range(context))
    result = run_loop(context, windows, ARMS, settings.seeds)
    return result.figures[settings.vertical]


def add_claims(figures: Sequence[Figure], report: Report) -> None:
    """The issue's figures, means over the seeds, and the intervals beside them."""
    report.add("fm_auc", _mean(figures, FM_ARM, "auc"), at_least(FM_AUC))
    report.add("fm_ne", _mean(figures, FM_ARM, "ne"), at_most(FM_NE))
    report.add("base_ne", _mean(figures, "base", "ne"), at_most(BASE_NE))
    for arm in ("control", "loopfm"):
        report.add(f"{arm}_ne", _mean(figures, arm, "ne"))
    difference = _figure(figures, "loopfm", "ne_minus_control")
    report.add("gain_over_control_low", -difference.high)
    report.add("gain_over_control_high", -difference.low)
    report.add("control_transfer_ratio", _mean(figures, "control", "tr"))
    report.add("batch_fm_ne", _mean(figures, BATCH_FM_ARM, "ne"))
    report.add("transfer_ratio_of_batch_fm", _mean(figures, "loopfm", "tr_of_batch_fm"))
    report.add("gain_over_control", -difference.value, at_least(GAIN_OVER_CONTROL))
    report.add("transfer_ratio", _mean(figures, "loopfm", "tr"), at_least(TRANSFER))


def _mean(figures: Sequence[Figure], arm: str, metric: str) -> float:
    return _figure(figures, arm, metric).value


def _figure(figures: Sequence[Figure], arm: str, metric: str) -> Figure:
    """The figure of all rows and all seeds."""
    for figure in figures:
        if (figure.arm, figure.metric, figure.slice, figure.seed) == (arm, metric, ALL_ROWS, None):
            return figure
    raise BenchmarkError(f"the run has no {metric} of {arm}")


if __name__ == "__main__":
    sys.exit(benchmark("ebnerd", SETTINGS, body))
