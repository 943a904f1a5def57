"""What each arm keeps of the FM's gain, on real data sets and the generated world, beside its rivals and its costs.

Method sections 1, 4 and 6. A further data set needs an entry below ``worlds`` in the settings, nothing else.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from pydantic import Field

from benchmarks.experiment_figures import (
    BASE,
    ArmScores,
    add_batch_fm,
    add_equal_within,
    add_interval,
    add_shares_of_others,
)
from benchmarks.experiment_histories import Coverage, add_histories, history_rows, stored_histories
from benchmarks.experiment_output import Output, arm_rows, experiment_benchmark, percent, seeds_note, with_interval
from benchmarks.experiment_scores import Scored
from benchmarks.experiments import (
    CellSettings,
    Experiment,
    SeedSettings,
    WorldSettings,
    arm_scores,
    each_world,
    experiment,
    run_cells,
)
from benchmarks.harness import Report, at_least, at_most
from feature_store.config import Name
from pipelines.config import Arm
from pipelines.measure import WORLD_STATE, WORLD_VM
from pipelines.windows import RunWindows

RECOVERED, GAP, NULL_WITHIN = 0.85, 0.03, 0.001
KD_CARRIES = 0.10
GAUC_LOW, CALIBRATION = -0.002, 0.03
ALL_DATA = "all-data raw"
RECOMMENDED = "recommended"


class TransferWorld(WorldSettings):
    """``null``: changes that switch the planted effects off; ``all_data``: also train a raw VM on all the data.

    ``taught``: here distillation can carry a share, so that claims on it are judged. Where labels alone teach a VM all
    that its features tell, it carries nothing whatever it does.
    """

    null: dict[str, float] = Field(default={})
    all_data: bool = True
    taught: bool = False


class TransferSettings(SeedSettings):
    """``arms``: those to compare."""

    worlds: dict[Name, TransferWorld] = Field(min_length=1)
    arms: list[Arm]


SETTINGS = TransferSettings


def body(settings: TransferSettings, report: Report, output: Output) -> None:
    """Every world in turn; a data set that is not there is named and left out.

    Raises:
        MissingDataError: none of the data sets is there.
    """
    each_world(settings.worlds, report, lambda name, world: _world(name, world, settings, report, output))


def _world(name: str, world: TransferWorld, settings: TransferSettings, report: Report, output: Output) -> None:
    with experiment(world, report) as opened:
        coverage = {
            vertical: _vertical(f"{name}_{vertical}", world, opened, vertical, settings, output)
            for vertical in opened.verticals
        }
        stored = stored_histories(opened.context, opened.space(0).space_id, opened.windows.test)
        title = f"{name}: stored histories of the test window"
        output.table(f"{name}_histories", title, *history_rows(stored, coverage))
        add_histories(report, name, stored, coverage)
    if world.null:
        _null_effects(name, world, settings, report)


def _vertical(
    name: str, world: TransferWorld, opened: Experiment, vertical: str, settings: TransferSettings, output: Output
) -> Coverage:
    """Tables and claims of one vertical; returns the share of its rows that see a token."""
    seeds = range(settings.seeds)
    scheduled = opened.context.config.vm.scheduled_arm
    chosen = list(dict.fromkeys([*settings.arms, scheduled]))
    scored = run_cells(opened, vertical, {arm: CellSettings(arm=arm) for arm in chosen}, seeds)
    if world.all_data:
        scored[ALL_DATA] = [_all_data(opened, vertical, seed) for seed in seeds]
    bounds = opened.bounds(vertical, scored[BASE][0].scores)
    beside = {bound: list(found) * settings.seeds for bound, found in bounds.items()}
    arms = arm_scores(opened, vertical, scored, settings.bootstrap, beside)
    _table(name, arms, scored, output)
    opened.report.add(f"{name}_seeds", arms.seeds, settings.seeds_target)
    _claims(name, arms, scheduled, opened.report, taught=world.taught)
    return arms.coverage


def _table(name: str, arms: ArmScores, scored: dict[str, list[Scored]], output: Output) -> None:
    output.table(name, f"{name}, {seeds_note(arms.seeds)}", *arm_rows(arms, scored))
    points = [(place, arms.metric(arm, "ne")) for place, arm in enumerate(arms.by_arm)]
    output.plot(name, ("", "NE"), {name: points}, list(arms.by_arm), joined=False)
    if "raw_loopfm" in scored:
        parts = {
            "I_temporal": arms.gain("raw"),
            "I_cross": arms.gain("raw_loopfm", "raw"),
            "I_residual": arms.gain("raw_loopfm", "loopfm"),
        }
        rows = [[part, with_interval(of)] for part, of in parts.items()]
        output.table(f"{name}_parts", f"{name}: the gain in parts", ["part", "NE (95 %)"], rows)


def _claims(name: str, arms: ArmScores, scheduled: str, report: Report, *, taught: bool) -> None:
    for arm in arms.by_arm:
        report.add(f"{name}_{arm.replace(' ', '_')}_ne", arms.metric(arm, "ne"))
    for arm in ("kd", "raw", "counters", "control", "loopfm", "loopfm_kd", "raw_loopfm", "raw_loopfm_kd"):
        if arm in arms.by_arm:
            report.add(f"{name}_{arm}_tr", arms.share(arm).value)
            add_shares_of_others(report, f"{name}_{arm}", arms, arm)
    add_batch_fm(report, name, arms)
    if {"control", "loopfm"} <= set(arms.by_arm):
        add_interval(report, f"{name}_loopfm_over_control", arms.gain("loopfm", "control"))
    if WORLD_STATE in arms.by_arm:
        if {"kd", "loopfm_kd"} <= set(arms.by_arm):
            kd, both = arms.gain("kd").value, arms.gain("loopfm_kd").value
            report.add(f"{name}_kd_could_carry", arms.share(WORLD_VM).value)
            report.add(f"{name}_kd_carries", arms.share("kd").value, at_least(KD_CARRIES) if taught else None)
            report.add(f"{name}_over_twice_kd", both - 2 * kd, at_least(0.0) if taught else None)
        report.add(f"{name}_gap", arms.gain(WORLD_STATE, WORLD_VM).value, at_least(GAP))
        recovered = arms.share("loopfm", WORLD_VM, WORLD_STATE).value
        report.add(f"{name}_recovered", recovered, at_least(RECOVERED))
        report.say(f"{name}: LoopFM recovers {percent(recovered)} of what the visible state tells")
    gauc = arms.difference(scheduled, "base", "gauc")
    report.add(f"{name}_{RECOMMENDED}_gauc_low", gauc.low, at_least(GAUC_LOW))
    miss = arms.mean_of(scheduled, "calibration", lambda value: abs(value - 1))
    report.add(f"{name}_{RECOMMENDED}_calibration_off", miss, at_most(CALIBRATION))


def early_windows(windows: RunWindows) -> RunWindows:
    """The earliest FM that can be trained, so that nearly all rows lie after its cutoff and may train a raw VM."""
    train = max(1, len(windows.fm_train) // 8)
    rows = windows.fm + windows.warm_up
    return replace(
        windows, fm_train=rows[:train], fm_validation=rows[train : 2 * train], warm_up=[],
        vm_train=rows[2 * train :] + windows.vm_train,
    )  # fmt: skip


def _all_data(opened: Experiment, vertical: str, seed: int) -> Scored:
    """A raw VM on (nearly) all the rows that FM and VM have between them; the early FM only opens its tables."""
    return opened.run(vertical, opened.world.cell(CellSettings(arm="raw")), seed, early_windows(opened.windows))


def _null_effects(name: str, world: TransferWorld, settings: TransferSettings, report: Report) -> None:
    """With the planted effects off, KD and LoopFM must equal base."""
    off = world.model_copy(
        update={"project": world.project.model_copy(update={"changes": {**world.project.changes, **world.null}})}
    )
    arms: list[Arm] = ["base", "kd", "loopfm"]
    with experiment(off, report) as opened:
        for vertical in opened.verticals:
            scored = run_cells(opened, vertical, {arm: CellSettings(arm=arm) for arm in arms}, range(settings.seeds))
            found = ArmScores({arm: [one.scores for one in of] for arm, of in scored.items()}, settings.bootstrap)
            for arm in arms[1:]:
                difference = found.difference(arm, "base", level=0.90)
                add_equal_within(report, f"{name}_{vertical}_no_effects_{arm}", difference, NULL_WITHIN)


if __name__ == "__main__":
    sys.exit(experiment_benchmark("transfer", SETTINGS, body))
