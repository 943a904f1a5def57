"""Every step over a range of partitions in one Spark session: what a chunk of a backfill runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.features import features, write_histories
from pipelines.fm_declaration import inputs_context, older_inputs, require_writable
from pipelines.fm_inputs import fm_inputs, write_partials
from pipelines.infer import infer
from pipelines.ingest import ingest
from pipelines.plan import Target, inputs_targets, source_targets, space_targets, todo
from pipelines.reopen import lacking_of_files, reopened_by_range, runs_of
from pipelines.segments import segments


def own_parts(context: RunContext, space: SpaceRecord, parts: Sequence[str]) -> list[str]:
    """Those of ``parts`` that a space writes: all that start at its FM's cutoff or later (design rule 5)."""
    return [part for part in parts if context.dataset.clock.start(part) >= space.fm_train_cutoff]


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
        write_sources(context, run, run)
        _write_older_inputs(context, spaces, run)
        for space in spaces:
            _write_own(context, space, run)


def _write_older_inputs(context: RunContext, spaces: Sequence[SpaceRecord], parts: list[str]) -> None:
    for space in older_inputs(context, spaces):
        if own := own_parts(context, space, parts):
            require_writable(context, space)
            write_inputs(inputs_context(context, space), own)


def _write_own(context: RunContext, space: SpaceRecord, parts: list[str]) -> None:
    own = own_parts(context, space, parts)
    if own:
        write_space(context, space, own, own)
    else:
        context.progress(f"space {space.space_id}: all partitions lie before its FM's cutoff, nothing to do")


def write_sources(context: RunContext, parts: list[str], history_parts: list[str]) -> None:
    """The tables of all spaces where they are not fresh: those of ``parts``, and raw histories of ``history_parts``."""
    targets = {target.step.table: target for target in source_targets(context)}
    _ingest_again(context, sorted(lacking_of_files(context, parts) or ()))
    _write(context, [targets["examples"], targets["labels"]], parts, lambda p: ingest(context, p))
    write_inputs(context, parts)
    _write(context, [targets["segments"]], parts, lambda p: segments(context, None, p))
    _write(context, [targets["histories"]], history_parts, lambda p: write_histories(context, None, p))


def write_inputs(context: RunContext, parts: list[str]) -> None:
    """What FMs read of ``parts`` as ``context`` declares it, where it is not fresh."""
    inputs, *summed = inputs_targets(context)
    _write(context, [inputs], parts, lambda p: fm_inputs(context, p))
    # A run that was cut off between the two tables of fm-inputs left sums missing: they alone are written then.
    for unsummed in filter(None, (todo(context, target, parts) for target in summed)):
        write_partials(context, unsummed)


def write_space(context: RunContext, space: SpaceRecord, parts: list[str], vm_parts: list[str]) -> None:
    """One space's tables where they are not fresh: outputs and segments of ``parts``, what VMs read of ``vm_parts``."""
    outputs, own_segments, histories, own_features = space_targets(context, space)
    _write(context, [outputs], parts, lambda p: infer(context, space, p))
    _write(context, [own_segments], parts, lambda p: segments(context, space, p))
    _write(context, [histories, own_features], vm_parts, lambda p: features(context, space, p))


def _ingest_again(context: RunContext, late: list[str]) -> None:
    """Ingest what late rows re-open and nothing between, which would make all that follows from it stale."""
    if late:
        context.progress(f"ingest: rows that came late re-open {', '.join(late)}")
    for run in runs_of(context, late):
        ingest(context, run)


def _write(context: RunContext, targets: list[Target], parts: list[str], step: Callable[[list[str]], None]) -> None:
    needed = sorted({part for target in targets for part in todo(context, target, parts)})
    if needed:
        step(context.dataset.clock.between(needed[0], needed[-1]))
    else:
        labels = ", ".join(target.label for target in targets)
        context.progress(f"{targets[0].step.name}: {labels}: fresh, nothing to do")
