"""Which partitions an as-of computation reads row by row, and for which the partial sums of fm-inputs are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feature_store.asof_parts import needed_parts
from feature_store.asof_plan import counter_names
from feature_store.ledger import LedgerEntry
from pipelines.context import RunContext
from pipelines.step import PinnedInputs, Read, TableStep

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def _definition(context: RunContext) -> Sequence[Any]:
    dataset = context.dataset
    counted = [f for f in dataset.as_of if f.name in counter_names(dataset)]
    at_once = [dataset.histories.availability] if dataset.history_clock.at_once else []
    return (context.inputs_id, counted, dataset.lag, *at_once)


PARTIALS = TableStep("fm-inputs", 1, "partials", _definition)


@dataclass(frozen=True)
class AsOfReads:
    """What the as-of columns of ``parts`` read; ``earlier`` row by row, ``summed`` as partial sums.

    ``past`` holds the partitions of past events; None on the VM's clock, which sees none.
    """

    scope: dict[str, str]
    parts: list[str]
    earlier: list[str]
    summed: list[str]
    past: list[str] | None

    @property
    def reads(self) -> list[Read]:
        """Inputs to pin; those of ``parts`` themselves must be done."""
        found = [Read(table, {}, self.parts) for table in ("examples", "labels")]
        found += [Read(table, {}, self.earlier, optional=True) for table in ("examples", "labels") if self.earlier]
        found += [Read("partials", self.scope, self.summed)] if self.summed else []
        # Read even where sums stand for all of them: the version tells which partitions appeared later.
        return found + ([Read("past_events", {}, self.past, optional=True)] if self.past is not None else [])

    def frames(self, inputs: PinnedInputs) -> tuple[DataFrame, DataFrame, DataFrame | None, DataFrame | None]:
        """Examples, labels, past events and partials at their pinned versions."""
        rows = self.earlier + self.parts
        return (
            inputs.require("examples", {}, rows),
            inputs.require("labels", {}, rows),
            inputs.frame("past_events", {}, self.past or []),
            inputs.frame("partials", self.scope, self.summed),
        )


def as_of_reads(context: RunContext, parts: list[str], names: list[str] | None = None) -> AsOfReads:
    """What to read for the FM's as-of columns of ``parts`` (``names``: for these counters, on the VM's clock)."""
    # A partition that is being written again, or failed to be, still holds the rows of its last commit.
    ledger = context.store.ledger
    examples, past = set(ledger.first_written("examples", {})), set(ledger.first_written("past_events", {}))
    scope = {"inputs_id": context.inputs_id}
    needed = needed_parts(context.dataset, parts, examples | past, _fresh_partials(context, scope), names)
    raw = [part for part in needed.raw if part < parts[0]]
    return AsOfReads(
        scope=scope,
        parts=parts,
        earlier=[part for part in raw if part in examples],
        summed=needed.partial,
        past=sorted(past.intersection([*raw, *parts])) if names is None else None,
    )


def _fresh_partials(context: RunContext, scope: dict[str, str]) -> list[str]:
    """Partitions whose sums were made of the newest rows under the present declarations."""
    ledger = context.store.ledger
    info = PARTIALS.info(context)
    inputs = {table: ledger.coverage(table, {}) for table in ("examples", "labels", "past_events")}
    return [
        part
        for part, entry in ledger.coverage("partials", scope).items()
        if entry.done_by(info)
        and not any(_newer(of.get(part), entry.versions_read.get(table)) for table, of in inputs.items())
    ]


def _newer(entry: LedgerEntry | None, read: int | None) -> bool:
    return entry is not None and entry.done and (entry.version_written or 0) > (-1 if read is None else read)
