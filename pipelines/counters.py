"""Batch counters of a features step: as-of declarations on the VM's clock, and the partitions that they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feature_store.asof import counters_frame
from feature_store.asof_plan import counter_names
from pipelines.asof_reads import AsOfReads, as_of_reads
from pipelines.context import RunContext
from pipelines.step import PinnedInputs

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def counter_reads(context: RunContext, parts: list[str]) -> AsOfReads | None:
    """What the counters of ``parts`` read; None where no vertical declares counters."""
    names = counter_names(context.dataset)
    return as_of_reads(context, parts, names) if names else None


def counters(context: RunContext, inputs: PinnedInputs, reads: AsOfReads | None) -> DataFrame | None:
    """Counters of the examples of ``reads`` (schema of ``counters_frame``), or None."""
    if reads is None:
        return None
    examples, labels, _, partials = reads.frames(inputs)
    names = counter_names(context.dataset)
    return counters_frame(context.spark, context.dataset, examples, labels, reads.parts, names, partials)
