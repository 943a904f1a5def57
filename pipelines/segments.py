"""Step ``segments``: each key's newest tokens within a partition, of a space or raw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from feature_store.config import RAW_SPACE
from feature_store.segments import segments_frame
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.step import PinnedInputs, Read, TableStep, write_table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def _definition(context: RunContext) -> Sequence[Any]:
    histories = context.dataset.histories
    return (histories.model_dump(exclude={"retention"}), context.dataset.heads)


def _raw_definition(context: RunContext) -> Sequence[Any]:
    delays = {name: label.delay for name, label in context.dataset.labels.items()}
    past = [delays] if context.dataset.source.past_events is not None else []
    return (*_definition(context), *past)


SEGMENTS = TableStep("segments", 1, "segments", _definition)
RAW_SEGMENTS = TableStep("segments", 2, "segments", _raw_definition)


def segments(context: RunContext, space: SpaceRecord | None, parts: list[str]) -> None:
    """Write the segments of ``space`` (None: raw tokens) for contiguous ``parts``.

    Raw ones of a partition before the first examples hold past events alone: see ``write_range.raw_calls``.

    Raises:
        MissingInputError: fm_outputs (raw: examples), or labels, of ``parts`` are missing.
    """
    if space is None:
        _write_raw(context, parts)
    else:
        _write_segments(context, space, parts)


def _write_segments(context: RunContext, space: SpaceRecord, parts: list[str]) -> None:
    scope = {"space_id": space.space_id}
    inputs = PinnedInputs(context, [Read("fm_outputs", scope, parts), Read("labels", {}, parts)])

    def build() -> Any:
        outputs, labels = inputs.require("fm_outputs", scope, parts), inputs.require("labels", {}, parts)
        return segments_frame(context.spark, context.dataset, space, outputs, labels, parts)

    write_table(context, SEGMENTS, scope, parts, inputs.versions, build)


def _write_raw(context: RunContext, parts: list[str]) -> None:
    with_past = context.dataset.source.past_events is not None
    examples = context.store.ledger.coverage("examples", {})
    # Without a second source every partition needs examples, so that a missing one is named.
    own = [part for part in parts if part in examples or not with_past]
    reads = [Read(table, {}, own) for table in ("examples", "labels") if own]
    inputs = PinnedInputs(context, [*reads, *([Read("past_events", {}, parts)] if with_past else [])])

    def build() -> Any:
        rows, labels = (_rows(context, inputs, table, own) for table in ("examples", "labels"))
        past = inputs.require("past_events", {}, parts) if with_past else None
        return segments_frame(context.spark, context.dataset, None, rows, labels, parts, past)

    write_table(context, RAW_SEGMENTS, {"space_id": RAW_SPACE}, parts, inputs.versions, build)


def _rows(context: RunContext, inputs: PinnedInputs, table: str, parts: list[str]) -> DataFrame:
    """Rows of ``parts``; none where there are none of those partitions."""
    from pyspark.sql.pandas.types import from_arrow_schema

    frame = inputs.frame(table, {}, parts)
    return context.spark.createDataFrame([], from_arrow_schema(context.store.schema(table))) if frame is None else frame
