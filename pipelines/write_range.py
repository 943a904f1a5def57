"""Every step over a range of partitions in one Spark session: what a chunk of a backfill runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.features import features, write_histories
from pipelines.fm_inputs import fm_inputs, write_partials
from pipelines.infer import infer
from pipelines.ingest import ingest
from pipelines.plan import Target, source_targets, space_targets, todo
from pipelines.segments import segments


def own_parts(context: RunContext, space: SpaceRecord, parts: Sequence[str]) -> list[str]:
    """Those of ``parts`` that a space writes: all that start at its FM's cutoff or later (design rule 5)."""
    return [part for part in parts if context.dataset.clock.start(part) >= space.fm_train_cutoff]


def write_range(context: RunContext, parts: list[str], spaces: Sequence[SpaceRecord]) -> None:
    """Write what is missing or stale in ``parts``: the tables of all spaces, then those of each of ``spaces``.

    Run again after a cut, it goes on with what is left.
    """
    targets = {target.step.table: target for target in source_targets(context)}
    _write(context, [targets["examples"], targets["labels"]], parts, lambda p: ingest(context, p))
    _write(context, [targets["fm_inputs"]], parts, lambda p: fm_inputs(context, p))
    if "partials" in targets:
        _write(context, [targets["partials"]], parts, lambda p: write_partials(context, p))
    _write(context, [targets["segments"]], parts, lambda p: segments(context, None, p))
    _write(context, [targets["histories"]], parts, lambda p: write_histories(context, None, p))
    for space in spaces:
        write_space_range(context, space, own_parts(context, space, parts))


def write_space_range(context: RunContext, space: SpaceRecord, parts: list[str]) -> None:
    """The missing and stale partitions of one space's own tables."""
    if not parts:
        context.progress(f"space {space.space_id}: all partitions lie before its FM's cutoff, nothing to do")
        return
    outputs, own_segments, histories, own_features = space_targets(context, space)
    _write(context, [outputs], parts, lambda p: infer(context, space, p))
    _write(context, [own_segments], parts, lambda p: segments(context, space, p))
    _write(context, [histories, own_features], parts, lambda p: features(context, space, p))


def _write(context: RunContext, targets: list[Target], parts: list[str], step: Callable[[list[str]], None]) -> None:
    needed = sorted({part for target in targets for part in todo(context, target, parts)})
    if needed:
        step(context.dataset.clock.between(needed[0], needed[-1]))
    else:
        context.progress(f"{targets[0].step.name}: {', '.join(target.label for target in targets)}: fresh")
