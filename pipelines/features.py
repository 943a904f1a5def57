"""Step ``features``: the rows that VMs train on, and the histories that those rows read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feature_store.asof_plan import counter_names
from feature_store.config import RAW_SPACE
from feature_store.features import features_frame
from feature_store.histories import histories_frame, history_requests, segment_parts
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.counters import counter_reads, counters
from pipelines.step import PinnedInputs, Read, TableStep, together, write_table


def _histories_definition(context: RunContext) -> Sequence[Any]:
    dataset = context.dataset
    return (dataset.histories, dataset.lag, dataset.training_lag, dataset.heads)


def _features_definition(context: RunContext) -> Sequence[Any]:
    dataset = context.dataset
    names = counter_names(dataset)
    counted = [(f, dataset.as_of_columns(f.name)) for f in dataset.as_of if f.name in names]
    at_once = [dataset.histories.availability] if dataset.history_clock.at_once else []
    return (dataset.verticals, counted, dataset.histories.keys, dataset.lag, dataset.training_lag, *at_once)


HISTORIES = TableStep("features", 1, "histories", _histories_definition)
FEATURES = TableStep("features", 2, "features", _features_definition)


def features(context: RunContext, space: SpaceRecord, parts: list[str]) -> None:
    """Write the histories of ``space`` and of raw tokens, then the features of all verticals, for contiguous ``parts``.

    Raises:
        MissingInputError: examples, labels or fm_outputs of ``parts`` are missing.
    """
    together(
        context,
        lambda: write_histories(context, space, parts),
        lambda: write_histories(context, None, parts),
        lambda: write_features(context, space, parts),
    )


def write_features(context: RunContext, space: SpaceRecord, parts: list[str]) -> None:
    """Features of all verticals: rows that name their histories."""
    scope = {"space_id": space.space_id}
    reads = [Read("examples", {}, parts), Read("labels", {}, parts), Read("fm_outputs", scope, parts)]
    counted = counter_reads(context, parts)
    inputs = PinnedInputs(context, reads + (counted.reads if counted else []))
    write_table(
        context,
        FEATURES,
        scope,
        parts,
        inputs.versions,
        lambda: features_frame(
            context.spark,
            context.dataset,
            space,
            inputs.require("examples", {}, parts),
            inputs.require("labels", {}, parts),
            inputs.require("fm_outputs", scope, parts),
            counters(context, inputs, counted),
        ),
    )


def write_histories(context: RunContext, space: SpaceRecord | None, parts: list[str]) -> None:
    """Histories of one space (None: raw) that the examples of ``parts`` read."""
    space_id = RAW_SPACE if space is None else space.space_id
    scope = {"space_id": space_id}
    sources = segment_parts(context.dataset, parts)
    inputs = PinnedInputs(context, [Read("examples", {}, parts), Read("segments", scope, sources, optional=True)])

    def build() -> Any:
        requests = history_requests(context.dataset, inputs.require("examples", {}, parts), space)
        tokens = inputs.require("segments", scope, sources)
        return histories_frame(context.spark, context.dataset, space_id, tokens, requests)

    write_table(context, HISTORIES, scope, parts, inputs.versions, build)
