"""``loopfm run``: the whole loop over a range, in event-time order; what is fresh already is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from feature_store.spaces import SpaceRecord
from pipelines.config import Arm
from pipelines.context import RunContext
from pipelines.errors import GateError
from pipelines.evaluate import compare_arms
from pipelines.features import features, write_histories
from pipelines.fm_inputs import fm_inputs, write_partials
from pipelines.infer import infer
from pipelines.ingest import ingest
from pipelines.measure import Figure
from pipelines.plan import Target, source_targets, space_targets, todo
from pipelines.promote import promote
from pipelines.segments import segments
from pipelines.train_fm import train_fm
from pipelines.train_vm import TrainedVm, train_vm
from pipelines.windows import RunWindows


@dataclass(frozen=True)
class LoopResult:
    """What a run measured."""

    windows: RunWindows
    spaces: list[SpaceRecord]
    trained: list[TrainedVm]
    figures: dict[str, list[Figure]]
    gates: dict[str, str]


def run_loop(context: RunContext, windows: RunWindows, arms: list[Arm], seeds: int) -> LoopResult:
    """Source rows to evaluated arms: every seed trains its own FM and VMs; seed 0's recipe goes through the gate.

    Each step writes only the range that is missing or stale, so that a run that was cut off goes on where it stopped.
    """
    prepare_sources(context, windows)
    spaces, trained = [], []
    for seed in range(seeds):
        space = train_fm(context, windows.fm_train, windows.fm_validation, seed)
        spaces.append(space)
        write_space(context, space, windows)
        for vertical in context.dataset.heads:
            for arm in arms:
                trained.append(
                    train_vm(
                        context, vertical, space, windows.vm_train, windows.vm_validation,
                        arm=arm, seed=seed, register=seed == 0,
                    )
                )  # fmt: skip
    figures, gates = {}, {}
    for vertical in context.dataset.heads:
        figures[vertical] = compare_arms(context, vertical, trained, [windows.vm_train, windows.test])
        if context.config.vm.recipe in arms:
            gates[vertical] = _gate(context, vertical)
    for space in spaces[1:]:
        context.spaces.close(space.space_id)
    return LoopResult(windows, spaces, trained, figures, gates)


def prepare_sources(context: RunContext, windows: RunWindows) -> None:
    """Examples, labels, FM inputs and raw histories of the whole run."""
    targets = {target.step.table: target for target in source_targets(context)}
    examples, labels, inputs = targets["examples"], targets["labels"], targets["fm_inputs"]
    raw_segments, raw_histories = targets["segments"], targets["histories"]
    parts = windows.parts
    _write(context, [examples, labels], parts, lambda todo_parts: ingest(context, todo_parts))
    _write(context, [inputs], parts, lambda todo_parts: fm_inputs(context, todo_parts))
    # A run that was cut off between the two tables of fm-inputs left sums missing: they alone are written then.
    if "partials" in targets and (unsummed := todo(context, targets["partials"], parts)):
        write_partials(context, unsummed)
    _write(context, [raw_segments], parts, lambda todo_parts: segments(context, None, todo_parts))
    _write(context, [raw_histories], windows.vm, lambda todo_parts: write_histories(context, None, todo_parts))


def write_space(context: RunContext, space: SpaceRecord, windows: RunWindows) -> None:
    """FM outputs, segments, histories and features of one space, for everything after the FM's own windows."""
    outputs, own_segments, own_histories, own_features = space_targets(context, space)
    _write(context, [outputs], windows.outputs, lambda parts: infer(context, space, parts))
    _write(context, [own_segments], windows.outputs, lambda parts: segments(context, space, parts))
    _write(context, [own_histories, own_features], windows.vm, lambda parts: features(context, space, parts))


def _write(context: RunContext, targets: list[Target], parts: list[str], step: Callable[[list[str]], None]) -> None:
    needed = sorted({part for target in targets for part in todo(context, target, parts)})
    if not needed:
        context.progress(f"{targets[0].step.name}: {', '.join(t.label for t in targets)}: fresh, nothing to do")
        return
    step(context.dataset.clock.between(needed[0], needed[-1]))


def _gate(context: RunContext, vertical: str) -> str:
    try:
        return str(promote(context, vertical))
    except GateError as error:
        return str(error)
