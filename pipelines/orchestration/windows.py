"""Which partitions a scheduled training uses: the newest whole window there is, always forward in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feature_store.config import RAW_SPACE
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.features import FEATURES, HISTORIES
from pipelines.fm_inputs import FM_INPUTS
from pipelines.ingest import EXAMPLES, LABELS
from pipelines.maturity import label_states, mature
from pipelines.registry import CHAMPION
from pipelines.step import TableStep
from pipelines.write_range import own_parts


@dataclass(frozen=True)
class TrainingWindows:
    """Partitions of one scheduled training, in order; ``test`` is what the gate measures on (empty for an FM)."""

    train: list[str]
    validation: list[str]
    test: list[str]

    @property
    def parts(self) -> list[str]:
        """All of them."""
        return self.train + self.validation + self.test


def vm_space(context: RunContext, vertical: str) -> SpaceRecord:
    """The space that a vertical's next VM reads: its champion's, so that a new FM changes nothing by itself; without a
    champion the newest active one."""
    champion = context.registry.by_alias(context.vm_name(vertical), CHAMPION)
    return context.space(champion.tags["loopfm.space"] if champion is not None else None)


def vm_windows(context: RunContext, vertical: str, space: SpaceRecord, until: str) -> TrainingWindows:
    """Windows of a VM that is trained once ``until`` has closed: they end at the newest mature partition by then.

    Raises:
        StepError: no partition is mature, or one of the windows was not written or was with other settings; names it
            and the command to run. Or the windows reach back to before the space: ``until`` is too early.
    """
    require_own(context, vertical, space, until)
    clock, done = context.dataset.clock, _done(context, "features", {"space_id": space.space_id}, until)
    if not done:
        raise StepError(f"{vertical}: no features of space {space.space_id} up to {until}; {_backfill(context, until)}")
    known = mature(label_states(context, vertical, done), clock.end(until))
    if not known:
        raise StepError(f"{vertical}: no partition up to {until} is mature yet: labels become known later")
    lengths = [_count(context, name) for name in ("vm_train", "vm_validation", "test")]
    windows = _cut(context, known[-1], lengths)
    require_own(context, f"{vertical}, trained on {windows.parts[0]} .. {windows.parts[-1]}", space, windows.parts[0])
    missing = sorted(set(windows.parts) - set(done))
    if missing:
        raise StepError(
            f"{vertical}: a VM of space {space.space_id} needs features of {windows.parts[0]} .. {windows.parts[-1]}, "
            f"{len(missing)} are missing from {missing[0]} on; {_backfill(context, missing[0])}"
        )
    own = {"space_id": space.space_id}
    read = [(FEATURES, own), (HISTORIES, own), (HISTORIES, {"space_id": RAW_SPACE})]
    _require_declared(context, f"a VM of {vertical}", windows.parts, read)
    return windows


def require_own(context: RunContext, what: str, space: SpaceRecord, part: str) -> None:
    """Raises:
    StepError: ``part`` lies before what the space's FM may write (design rule 5), so that no backfill can bring it;
        names ``what`` wants it and where the space begins.
    """
    if own_parts(context, space, [part]):
        return
    last = context.dataset.clock.part_of(space.fm_train_cutoff - 1)
    raise StepError(
        f"{what}: space {space.space_id} will have no features of {part}: they begin after {last}, up to which its FM "
        "has seen rows or labels; choose a later partition"
    )


def fm_windows(context: RunContext, until: str) -> TrainingWindows:
    """Windows of an FM that opens a space once ``until`` has closed: one whole VM window before the newest partition
    that is mature by then, so that VMs of the new space have rows to train, validate and test on that the FM has not
    seen (design rule 5).

    Raises:
        StepError: no partition is mature, or fm_inputs of the window are missing or were written with other settings;
            names them and the command to run.
    """
    clock, labelled = context.dataset.clock, _done(context, "labels", {}, until)
    known = [mature(label_states(context, v, labelled), clock.end(until)) for v in context.dataset.heads if labelled]
    if not known or not all(known):
        raise StepError(f"no partition up to {until} is mature; {_backfill(context, until)}")
    own = [_count(context, name) for name in ("fm_train", "fm_validation")]
    later = sum(_count(context, name) for name in ("warm_up", "vm_train", "vm_validation", "test"))
    windows = _cut(context, clock.next(min(parts[-1] for parts in known), -later), [*own, 0])
    done = set(_done(context, "fm_inputs", {"inputs_id": context.inputs_id}, until))
    missing = sorted(set(windows.parts) - done)
    if missing:
        raise StepError(
            f"an FM trained after {until} needs fm_inputs of {windows.parts[0]} .. {windows.parts[-1]}, one VM window "
            f"back; {len(missing)} are missing from {missing[0]} on; {_backfill(context, missing[0])}"
        )
    _require_declared(context, "an FM", windows.parts, [(FM_INPUTS, {"inputs_id": context.inputs_id})])
    return windows


def _require_declared(
    context: RunContext, what: str, parts: list[str], read: Sequence[tuple[TableStep, dict[str, str]]]
) -> None:
    """Nothing is trained on rows of two definitions: what a changed setting made stale is written again first."""
    for step, scope in [(EXAMPLES, {}), (LABELS, {}), *read]:
        entries, info = context.store.ledger.coverage(step.table, scope), step.info(context)
        changed = [part for part in parts if part in entries and entries[part].done and not entries[part].done_by(info)]
        if changed:
            raise StepError(
                f"{what} needs {' '.join([step.table, *scope.values()])} of {parts[0]} .. {parts[-1]} as it is "
                f"declared now: settings or the step's version have changed since {len(changed)} of them were written, "
                f"{changed[0]} the first; {_backfill(context, changed[0])}"
            )


def _cut(context: RunContext, last: str, lengths: list[int]) -> TrainingWindows:
    clock = context.dataset.clock
    parts = clock.between(clock.next(last, 1 - sum(lengths)), last)
    train, validation = lengths[0], lengths[0] + lengths[1]
    return TrainingWindows(parts[:train], parts[train:validation], parts[validation:])


def _count(context: RunContext, window: str) -> int:
    return int(getattr(context.config.windows, window) // context.dataset.grain)


def _done(context: RunContext, table: str, scope: dict[str, str], until: str) -> list[str]:
    entries = context.store.ledger.coverage(table, scope)
    return [part for part, entry in entries.items() if entry.done and part <= until]


def _backfill(context: RunContext, part: str) -> str:
    return f"run `loopfm backfill {context.origin} --from {part}`"
