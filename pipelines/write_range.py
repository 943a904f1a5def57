"""Every step over a range of partitions in one Spark session: what a chunk of a backfill runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.features import HISTORIES, write_features, write_histories
from pipelines.fm_declaration import inputs_context, older_inputs, require_writable
from pipelines.fm_inputs import write_fm_inputs, write_partials
from pipelines.infer import infer
from pipelines.ingest import PAST_EVENTS, ingest, past_parts, write_past_events
from pipelines.plan import DONE, STALE, Planned, Target, inputs_targets, source_targets, space_targets, states_after
from pipelines.reopen import lacking_of_files, reopened_by_range, runs_of
from pipelines.segments import RAW_SEGMENTS, segments
from pipelines.step import together


def own_parts(context: RunContext, space: SpaceRecord, parts: Sequence[str]) -> list[str]:
    """Those of ``parts`` that a space writes: all that start at its FM's cutoff or later (design rule 5)."""
    return [part for part in parts if context.dataset.clock.start(part) >= space.fm_train_cutoff]


@dataclass(frozen=True)
class Call:
    """A call of a step: it writes ``targets``, where one of them is not fresh in ``parts``; ``lacking``: late rows."""

    targets: tuple[Target, ...]
    parts: list[str]
    step: Callable[[list[str]], None]
    lacking: Mapping[str, int] | None = None

    def needed(self, context: RunContext, planned: Planned | None = None, kept: Collection[str] = (DONE,)) -> list[str]:
        """The contiguous range to write; empty where all is fresh. ``planned`` counts as written before.

        ``kept``: states of partitions that need no writing.
        """
        found = [states_after(context, target, self.parts, planned or {}, self.lacking) for target in self.targets]
        places = [n for n, part in enumerate(self.parts) if any(states[part].state not in kept for states in found)]
        return self.parts[places[0] : places[-1] + 1] if places else []


def read_parts(context: RunContext, parts: Sequence[str], spaces: Sequence[SpaceRecord]) -> list[str]:
    """Those of ``parts`` that VMs of one of ``spaces`` read, and so raw histories of."""
    return max((own_parts(context, space, parts) for space in spaces), key=len, default=[])


def shared_targets(
    context: RunContext, parts: list[str], spaces: Sequence[SpaceRecord]
) -> list[tuple[Target, list[str]]]:
    """Tables that do not depend on a space, each with those of ``parts`` that it holds: see ``read_parts``."""
    read = read_parts(context, parts, spaces)
    return [(target, read if target.step is HISTORIES else parts) for target in source_targets(context)]


def write_range(context: RunContext, parts: list[str], spaces: Sequence[SpaceRecord]) -> None:
    """Write what is missing or stale in ``parts``: the tables of all spaces, then those of each of ``spaces``.

    Rows that reached the source late re-open ingested partitions, as in the runs of the data Dag: ``parts``, and
    earlier ones within ``schedule.late``. Run again after a cut, it goes on with what is left.

    Raises:
        StepError: the FM of a space reads what the YAML file no longer declares.
    """
    late = reopened_by_range(context, parts)
    _ingest_again(context, late)
    for run in runs_of(context, sorted({*parts, *late})):
        write_sources(context, run, read_parts(context, run, spaces))
        _write_older_inputs(context, spaces, run)
        for space in spaces:
            _write_own(context, space, run)


def _write_older_inputs(context: RunContext, spaces: Sequence[SpaceRecord], parts: list[str]) -> None:
    for space in older_inputs(context, spaces):
        if own := own_parts(context, space, parts):
            require_writable(context, space)
            write_calls(context, _input_calls(inputs_context(context, space), own))


def _write_own(context: RunContext, space: SpaceRecord, parts: list[str]) -> None:
    own = own_parts(context, space, parts)
    if own:
        write_space(context, space, own, own)
    else:
        context.progress(f"space {space.space_id}: all partitions lie before its FM's cutoff, nothing to do")


def write_sources(context: RunContext, parts: list[str], vm_parts: list[str]) -> None:
    """The tables of all spaces where they are not fresh: those of ``parts``, and raw histories of ``vm_parts``."""
    for calls in source_calls(context, parts, vm_parts):
        write_calls(context, calls)


def write_space(context: RunContext, space: SpaceRecord, parts: list[str], vm_parts: list[str]) -> None:
    """One space's tables where they are not fresh: outputs and segments of ``parts``, what VMs read of ``vm_parts``."""
    for calls in space_calls(context, space, parts, vm_parts):
        write_calls(context, calls)


def source_calls(context: RunContext, parts: list[str], vm_parts: list[str]) -> list[list[Call]]:
    """What ``write_sources`` calls where it is needed, in order; calls of one list run at once.

    What late rows re-open is ingested by itself.
    """
    of = {target.step.table: target for target in source_targets(context)}
    both, lacking = (of["examples"], of["labels"]), lacking_of_files(context, parts) or {}
    late = [
        [Call(both, run, lambda p: _ingest_again(context, p), lacking)] for run in runs_of(context, sorted(lacking))
    ]
    return [
        *late,
        [Call(both, parts, lambda p: ingest(context, p))],
        past_calls(context, parts),
        _input_calls(context, parts),
        raw_calls(context, parts),
        [Call((of["histories"],), vm_parts, lambda p: write_histories(context, None, p))],
    ]


def past_calls(context: RunContext, parts: list[str]) -> list[Call]:
    """Past events of a second source that histories of ``parts`` read, earlier ones than the first examples too."""
    earlier = past_parts(context, parts)
    targets = [target for target in source_targets(context) if target.step is PAST_EVENTS]
    return [Call((target,), earlier, lambda p: write_past_events(context, p)) for target in targets]


def raw_calls(context: RunContext, parts: list[str]) -> list[Call]:
    """Raw segments of ``parts``, and of the earlier ones of ``past_calls``."""
    (target,) = [target for target in source_targets(context) if target.step is RAW_SEGMENTS]
    return [Call((target,), past_parts(context, parts) or parts, lambda p: segments(context, None, p))]


def _input_calls(context: RunContext, parts: list[str]) -> list[Call]:
    """What FMs read of ``parts`` as ``context`` declares it."""
    inputs, *summed = inputs_targets(context)
    calls = [Call((inputs,), parts, lambda p: write_fm_inputs(context, p))]
    return calls + [Call((target,), parts, lambda p: write_partials(context, p)) for target in summed]


def space_calls(context: RunContext, space: SpaceRecord, parts: list[str], vm_parts: list[str]) -> list[list[Call]]:
    """What ``write_space`` calls where it is needed, in order; calls of one list run at once."""
    outputs, own_segments, histories, features = space_targets(context, space)
    return [
        [Call((outputs,), parts, lambda p: infer(context, space, p))],
        [Call((own_segments,), parts, lambda p: segments(context, space, p))],
        [
            Call((histories,), vm_parts, lambda p: write_histories(context, space, p)),
            Call((features,), vm_parts, lambda p: write_features(context, space, p)),
        ],
    ]


def _ingest_again(context: RunContext, late: list[str]) -> None:
    """Ingest what late rows re-open and nothing between, which would make all that follows from it stale."""
    if late:
        context.progress(f"ingest: rows that came late re-open {', '.join(late)}")
    for run in runs_of(context, late):
        ingest(context, run)


def write_missing(context: RunContext, calls: list[Call]) -> None:
    """Make those of ``calls`` that have a partition not done yet: stale ones are a backfill's work."""
    for call in calls:
        if needed := call.needed(context, kept=(DONE, STALE)):
            call.step(needed)


def write_calls(context: RunContext, calls: list[Call]) -> None:
    """Make those of ``calls`` that are needed, at once."""
    writes = []
    for call in calls:
        if needed := call.needed(context):
            writes.append(partial(call.step, needed))
        else:
            labels = ", ".join(target.label for target in call.targets)
            context.progress(f"{call.targets[0].step.name}: {labels}: fresh, nothing to do")
    if len(writes) == 1:
        writes[0]()
    elif writes:
        together(context, *writes)
