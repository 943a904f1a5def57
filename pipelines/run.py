"""``loopfm run``: the whole loop over a range, in event-time order; what is fresh already is kept."""

from __future__ import annotations

from dataclasses import dataclass

from feature_store.spaces import SpaceRecord
from pipelines.config import Arm
from pipelines.context import RunContext
from pipelines.errors import GateError
from pipelines.evaluate import compare_arms
from pipelines.maturity import require_mature
from pipelines.measure import Figure
from pipelines.own_parts import require_own_parts
from pipelines.promote import promote
from pipelines.train_fm import train_fm
from pipelines.train_vm import TrainedVm, train_vm
from pipelines.windows import RunWindows
from pipelines.write_range import write_sources, write_space


@dataclass(frozen=True)
class LoopResult:
    """What a run measured."""

    windows: RunWindows
    spaces: list[SpaceRecord]
    trained: list[TrainedVm]
    figures: dict[str, list[Figure]]
    gates: dict[str, str]


def run_loop(
    context: RunContext, windows: RunWindows, arms: list[Arm], seeds: int, register: bool = True
) -> LoopResult:
    """Source rows to evaluated arms: every seed trains its own FM and VMs; seed 0's recipe goes through the gate.

    Each step writes only the range that is missing or stale, so that a run that was cut off goes on where it stopped.
    Without ``register`` no VM is registered and no gate asked.

    Raises:
        ModelConfigError: before anything is written, where a part of a team's own cannot be imported.
        StepError: before anything is trained, where no partition of the test window is mature for a vertical.
    """
    require_own_parts(context.config, arms)
    write_sources(context, windows.parts, windows.vm)
    for vertical in context.dataset.heads:
        require_mature(context, vertical, windows.test)
    spaces, trained = [], []
    for seed in range(seeds):
        space = train_fm(context, windows.fm_train, windows.fm_validation, seed, register=seed == 0)
        spaces.append(space)
        write_space(context, space, windows.outputs, windows.vm)
        for vertical in context.dataset.heads:
            for arm in arms:
                trained.append(
                    train_vm(
                        context, vertical, space, windows.vm_train, windows.vm_validation,
                        arm=arm, seed=seed, register=register and seed == 0,
                    )
                )  # fmt: skip
    figures, gates = {}, {}
    for vertical in context.dataset.heads:
        figures[vertical] = compare_arms(context, vertical, trained, [windows.vm_train, windows.test])
        if register and context.config.vm.scheduled_arm in arms:
            gates[vertical] = _gate(context, vertical)
    for space in spaces[1:]:
        context.spaces.close(space.space_id)
    return LoopResult(windows, spaces, trained, figures, gates)


def _gate(context: RunContext, vertical: str) -> str:
    try:
        return str(promote(context, vertical))
    except GateError as error:
        return str(error)
