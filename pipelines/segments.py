"""Step ``segments``: each key's newest tokens within a partition, of a space or raw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feature_store.config import RAW_SPACE
from feature_store.segments import segments_frame
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.step import PinnedInputs, Read, TableStep, write_table


def _definition(context: RunContext) -> Sequence[Any]:
    histories = context.dataset.histories
    return (histories.model_dump(exclude={"retention"}), context.dataset.heads)


SEGMENTS = TableStep("segments", 1, "segments", _definition)


def segments(context: RunContext, space: SpaceRecord | None, parts: list[str]) -> None:
    """Write the segments of ``space`` (None: raw tokens) for contiguous ``parts``.

    Raises:
        MissingInputError: fm_outputs (raw: examples), or labels, of ``parts`` are missing.
    """
    table, scope = ("examples", {}) if space is None else ("fm_outputs", {"space_id": space.space_id})
    reads = [Read(table, scope, parts), Read("labels", {}, parts)]
    with_past = space is None and context.dataset.source.past_events is not None
    if with_past:
        reads.append(Read("past_events", {}, parts, optional=True))
    inputs = PinnedInputs(context, reads)
    write_table(
        context,
        SEGMENTS,
        {"space_id": RAW_SPACE if space is None else space.space_id},
        parts,
        inputs.versions,
        lambda: segments_frame(
            context.spark,
            context.dataset,
            space,
            inputs.require(table, scope, parts),
            inputs.require("labels", {}, parts),
            parts,
            inputs.frame("past_events", {}, parts) if with_past else None,
        ),
    )
