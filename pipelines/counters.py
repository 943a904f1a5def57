"""Batch counters of a features step: as-of declarations on the VM's clock, and the partitions that they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feature_store.asof import counters_frame
from feature_store.asof_plan import counter_names
from pipelines.context import RunContext
from pipelines.fm_inputs import earlier_parts
from pipelines.step import PinnedInputs, Read

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def counter_reads(context: RunContext, parts: list[str]) -> list[Read]:
    """Earlier partitions that the counters of ``parts`` read; none where no vertical declares counters."""
    if not counter_names(context.dataset):
        return []
    earlier = earlier_parts(context, parts)
    return [Read(table, {}, earlier, optional=True) for table in ("examples", "labels")]


def counters(context: RunContext, inputs: PinnedInputs, parts: list[str]) -> DataFrame | None:
    """Counters of the examples of ``parts`` (schema of ``counters_frame``), or None."""
    names = counter_names(context.dataset)
    if not names:
        return None
    wanted = earlier_parts(context, parts) + parts
    examples, labels = (inputs.require(table, {}, wanted) for table in ("examples", "labels"))
    return counters_frame(context.spark, context.dataset, examples, labels, parts, names)
