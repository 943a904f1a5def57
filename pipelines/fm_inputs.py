"""Step ``fm-inputs``: every column that the FM reads, as of each event, and the partial sums that later parts need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feature_store.asof import fm_inputs_frame
from feature_store.asof_partials import partials_frame
from feature_store.schemas import composing_features
from pipelines.asof_reads import PARTIALS, as_of_reads
from pipelines.context import RunContext
from pipelines.step import PinnedInputs, Read, TableStep, together, write_table


def _definition(context: RunContext) -> Sequence[Any]:
    dataset = context.dataset
    carried = [name for name in composing_features(dataset) if name not in dataset.fm_features]
    return (context.inputs_id, *sorted(carried), *([dataset.lag] if dataset.fm_clock == "batch" else []))


FM_INPUTS = TableStep("fm-inputs", 1, "fm_inputs", _definition)


def fm_inputs(context: RunContext, parts: list[str]) -> None:
    """Write fm_inputs and partials of contiguous ``parts``.

    Raises:
        MissingInputError: examples or labels of ``parts`` were not ingested.
    """
    writes = [lambda: write_fm_inputs(context, parts)]
    if context.dataset.has_partials:
        writes.append(lambda: write_partials(context, parts))
    together(context, *writes)


def write_fm_inputs(context: RunContext, parts: list[str]) -> None:
    """Write the FM's columns of contiguous ``parts``."""
    reads = as_of_reads(context, parts)
    inputs = PinnedInputs(context, reads.reads)

    def build() -> Any:
        examples, labels, past_events, partials = reads.frames(inputs)
        return fm_inputs_frame(
            context.spark, context.dataset, examples, labels, past_events, parts, context.inputs_id, partials
        )

    write_table(context, FM_INPUTS, reads.scope, parts, inputs.versions, build)


def write_partials(context: RunContext, parts: list[str]) -> None:
    """Write the partial sums of contiguous ``parts``."""
    reads = [Read("examples", {}, parts), Read("labels", {}, parts)]
    if context.dataset.source.past_events is not None:
        reads.append(Read("past_events", {}, parts, optional=True))
    inputs = PinnedInputs(context, reads)

    def build() -> Any:
        return partials_frame(
            context.spark,
            context.dataset,
            inputs.require("examples", {}, parts),
            inputs.require("labels", {}, parts),
            inputs.frame("past_events", {}, parts),
            parts,
            context.inputs_id,
        )

    write_table(context, PARTIALS, {"inputs_id": context.inputs_id}, parts, inputs.versions, build)
