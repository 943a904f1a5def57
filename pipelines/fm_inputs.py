"""Step ``fm-inputs``: every column that the FM reads, as of each event, computed once by Spark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feature_store.asof import fm_inputs_frame
from pipelines.context import RunContext
from pipelines.step import PinnedInputs, Read, TableStep, write_table


def _definition(context: RunContext) -> Sequence[Any]:
    return (context.inputs_id,)


FM_INPUTS = TableStep("fm-inputs", 1, "fm_inputs", _definition)


def fm_inputs(context: RunContext, parts: list[str]) -> None:
    """Write fm_inputs of contiguous ``parts``.

    Raises:
        MissingInputError: examples or labels of ``parts`` were not ingested.
    """
    scope = {"inputs_id": context.inputs_id}
    earlier = earlier_parts(context, parts)
    reads = [Read("examples", {}, parts), Read("labels", {}, parts)]
    reads += [Read(table, {}, earlier, optional=True) for table in ("examples", "labels")]
    past_parts = sorted(part for part in context.store.ledger.coverage("past_events", {}) if part <= parts[-1])
    if context.dataset.source.past_events is not None:
        reads.append(Read("past_events", {}, past_parts, optional=True))
    inputs = PinnedInputs(context, reads)
    write_table(
        context,
        FM_INPUTS,
        scope,
        parts,
        inputs.versions,
        lambda: fm_inputs_frame(
            context.spark,
            context.dataset,
            inputs.require("examples", {}, earlier + parts),
            inputs.require("labels", {}, earlier + parts),
            inputs.frame("past_events", {}, past_parts),
            parts,
            context.inputs_id,
        ),
    )


def earlier_parts(context: RunContext, parts: list[str]) -> list[str]:
    """Ingested partitions before ``parts`` that their as-of features may read."""
    coverage = context.store.ledger.coverage("examples", {})
    return sorted(part for part, entry in coverage.items() if entry.done and part < parts[0])
