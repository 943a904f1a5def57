"""What is done, missing or stale, and why: one rule for ``status``, ``plan`` and re-runs that skip what is fresh."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from feature_store.asof_parts import earlier_parts
from feature_store.asof_plan import counter_names, fm_plan
from feature_store.commits import StepInfo
from feature_store.config import RAW_SPACE
from feature_store.histories import segment_span
from feature_store.ledger import LedgerEntry, scope_text
from feature_store.spaces import SpaceRecord
from pipelines.asof_reads import PARTIALS
from pipelines.context import RunContext
from pipelines.features import FEATURES, HISTORIES
from pipelines.fm_declaration import inputs_context, older_inputs
from pipelines.fm_inputs import FM_INPUTS
from pipelines.infer import FM_OUTPUTS
from pipelines.ingest import EXAMPLES, LABELS, PAST_EVENTS
from pipelines.segments import RAW_SEGMENTS, SEGMENTS
from pipelines.step import Scope, TableStep

DONE, STALE = "done", "stale"


@dataclass(frozen=True)
class PartState:
    """State of one partition of a table: done, running, failed, missing or stale, with the reason."""

    state: str
    reason: str = ""
    rows: int = 0

    @property
    def is_fresh(self) -> bool:
        """Done, and everything that it depends on is as it was."""
        return self.state == DONE


@dataclass(frozen=True)
class Upstream:
    """Partitions of a table that one partition depends on: from the first to the last of ``span(part)``; None: on none.

    ``appearing``: it becomes stale when one of them is written for the first time, not when one is written again.
    """

    table: str
    scope: Scope
    span: Callable[[str], tuple[str, str] | None]
    appearing: bool = False


@dataclass(frozen=True)
class Target:
    """A table in one scope, the step that writes it, what its partitions depend on, and what made fresh ones."""

    step: TableStep
    scope: Scope
    upstream: tuple[Upstream, ...]
    info: StepInfo

    @property
    def label(self) -> str:
        """Table and space, for people."""
        return " ".join([self.step.table, *self.scope.values()])


class _Written:
    """Versions at which the partitions of a table were written, in time order: thousands of spans are asked of them."""

    def __init__(self, versions: Mapping[str, int]) -> None:
        self._of = versions
        self._parts = sorted(versions)
        self._versions = np.array([versions[part] for part in self._parts], dtype=np.int64)

    @classmethod
    def of(cls, context: RunContext, upstream: Upstream) -> _Written:
        """The newest version of each done partition; of ``appearing`` ones the first of each that is not empty."""
        ledger = context.store.ledger
        entries = ledger.coverage(upstream.table, upstream.scope)
        if not upstream.appearing:
            return cls({part: entry.version_written or 0 for part, entry in entries.items() if entry.done})
        empty = {part for part, entry in entries.items() if entry.done and not entry.rows}
        first = ledger.first_written(upstream.table, upstream.scope)
        return cls({part: version for part, version in first.items() if part not in empty})

    def newer(self, span: tuple[str, str], version: int) -> str | None:
        """The first partition of ``span``, both ends included, that was written after ``version``."""
        if span[0] == span[1]:
            return span[0] if self._of.get(span[0], -1) > version else None
        start, stop = bisect_left(self._parts, span[0]), bisect_right(self._parts, span[1])
        places = np.flatnonzero(self._versions[start:stop] > version)
        return self._parts[start + int(places[0])] if len(places) else None


Covered = list[tuple[Upstream, _Written]]


def _same(part: str) -> tuple[str, str]:
    return part, part


_SOURCES = (Upstream("examples", {}, _same), Upstream("labels", {}, _same))


def source_targets(context: RunContext) -> list[Target]:
    """Tables that do not depend on a space."""
    past = _past_events(context)
    return [
        _target(context, EXAMPLES, {}),
        _target(context, LABELS, {}),
        *([_target(context, PAST_EVENTS, {})] if past else []),
        *inputs_targets(context),
        _target(context, RAW_SEGMENTS, {"space_id": RAW_SPACE}, *_SOURCES, *past),
        _histories(context, RAW_SPACE),
    ]


def inputs_targets(context: RunContext) -> list[Target]:
    """fm_inputs and the partial sums that they need, as ``context`` declares them."""
    scope = {"inputs_id": context.inputs_id}
    listed = _past_events(context) if any(one.lists for one in fm_plan(context.dataset).passes) else []
    summed = [_target(context, PARTIALS, scope, *_SOURCES, *listed)] if context.dataset.has_partials else []
    return [_target(context, FM_INPUTS, scope, *_SOURCES, *listed, *_looked_back_to(context)), *summed]


def older_inputs_targets(context: RunContext, spaces: Sequence[SpaceRecord]) -> list[tuple[SpaceRecord, Target]]:
    """What those of ``spaces`` read whose FM was declared otherwise than now, each with the first of its spaces.

    Nothing before the cutoff of that space is needed.
    """
    return [
        (space, target)
        for space in older_inputs(context, spaces)
        if space.declaration
        for target in inputs_targets(inputs_context(context, space))
    ]


def space_targets(context: RunContext, space: SpaceRecord) -> list[Target]:
    """Tables of one space."""
    scope = {"space_id": space.space_id}
    labels = Upstream("labels", {}, _same)
    outputs = Upstream("fm_outputs", scope, _same)
    return [
        _target(context, FM_OUTPUTS, scope, Upstream("fm_inputs", {"inputs_id": space.inputs_id}, _same)),
        _target(context, SEGMENTS, scope, outputs, labels),
        _histories(context, space.space_id),
        _target(context, FEATURES, scope, Upstream("examples", {}, _same), labels, outputs, *_counted(context)),
    ]


def _past_events(context: RunContext) -> list[Upstream]:
    """A partition's own events of the second source, where there is one."""
    return [Upstream("past_events", {}, _same)] if context.dataset.source.past_events is not None else []


def _looked_back_to(context: RunContext) -> list[Upstream]:
    """Earlier partitions that the FM's as-of columns see. Late rows of one that was there are seen later on only."""
    span = earlier_parts(context.dataset)
    lists = any(one.lists for one in fm_plan(context.dataset).passes)
    tables = ["examples", *(["past_events"] if lists else [])]
    return [Upstream(table, {}, span, appearing=True) for table in tables]


def _counted(context: RunContext) -> list[Upstream]:
    """Earlier partitions that verticals' counters see."""
    names = counter_names(context.dataset)
    return [Upstream("examples", {}, earlier_parts(context.dataset, names), appearing=True)] if names else []


def _histories(context: RunContext, space_id: str) -> Target:
    scope = {"space_id": space_id}
    segments = Upstream("segments", scope, lambda part: segment_span(context.dataset, part, part))
    return _target(context, HISTORIES, scope, Upstream("examples", {}, _same), segments)


def _target(context: RunContext, step: TableStep, scope: Scope, *upstream: Upstream) -> Target:
    return Target(step, scope, upstream, step.info(context))


def part_states(
    context: RunContext, target: Target, parts: list[str], lacking: Mapping[str, int] | None = None
) -> dict[str, PartState]:
    """State of each of ``parts``; ``lacking``: rows of the source that an ingested partition does not hold."""
    entries = context.store.ledger.coverage(target.step.table, target.scope)
    info = target.info
    upstream = [(source, _Written.of(context, source)) for source in target.upstream]
    states = {}
    for part in parts:
        entry = entries.get(part)
        if entry is None or entry.state == "expired":
            states[part] = PartState("missing", "never written")
        elif entry.state != DONE:
            states[part] = PartState(entry.state, entry.message or "")
        elif entry.step_version != info.version:
            states[part] = PartState(STALE, f"step version {entry.step_version} -> {info.version}", entry.rows)
        elif entry.definition != info.definition:
            states[part] = PartState(STALE, "settings changed since it was written", entry.rows)
        else:
            states[part] = PartState(*_upstream_state(part, entry, upstream), entry.rows)
            if lacking and part in lacking and target.step in (EXAMPLES, LABELS):
                states[part] = PartState(STALE, f"{lacking[part]} rows of the source came later", entry.rows)
    return states


def _upstream_state(part: str, entry: LedgerEntry, upstream: Covered) -> tuple[str, str]:
    for source, written in upstream:
        span = source.span(part)
        newer = written.newer(span, entry.versions_read.get(source.table, -1)) if span else None
        if newer is not None and source.appearing:
            return STALE, f"{source.table} {newer}, which its as-of columns see, came after it was written"
        if newer is not None:
            return STALE, f"{source.table} {newer} was written again"
    return DONE, ""


def ranges(parts: list[str], states: dict[str, PartState]) -> list[tuple[str, str, PartState, int]]:
    """Runs of neighbouring parts with one state and reason: (first, last, state, count)."""
    found: list[tuple[str, str, PartState, int]] = []
    for part in parts:
        state = PartState(states[part].state, states[part].reason)
        if found and found[-1][2] == state:
            first, _, _, count = found[-1]
            found[-1] = (first, part, state, count + 1)
        else:
            found.append((part, part, state, 1))
    return found


Planned = dict[tuple[str, str], list[str]]
"""Table and scope -> partitions that a run would write, in time order."""


@dataclass(frozen=True)
class PlannedWrite:
    """Neighbouring partitions of one table that are not fresh, for one reason."""

    label: str
    parts: list[str]
    state: PartState

    def __str__(self) -> str:
        where = f"{self.parts[0]} .. {self.parts[-1]} ({len(self.parts)})"
        return f"write {self.label:28} {where}: {self.state.state}: {self.state.reason}"


def planned_writes(
    context: RunContext, wanted: Sequence[tuple[Target, list[str]]], lacking: Mapping[str, int] | None = None
) -> list[PlannedWrite]:
    """What is missing or stale in the given partitions of each table, and what becomes stale once that is written.

    Args:
        context: the project.
        wanted: tables in the order in which steps write them, each with contiguous partitions.
        lacking: rows of the source that an ingested partition does not hold.
    """
    found: list[PlannedWrite] = []
    planned: Planned = {}
    for target, parts in wanted:
        states = states_after(context, target, parts, planned, lacking)
        found += _writes(target, parts, states)
        planned[target.step.table, scope_text(target.scope)] = [part for part in parts if not states[part].is_fresh]
    return found


def states_after(
    context: RunContext,
    target: Target,
    parts: list[str],
    planned: Planned,
    lacking: Mapping[str, int] | None = None,
) -> dict[str, PartState]:
    """Like ``part_states``, once ``planned`` was written: what depends on it is stale."""
    states = part_states(context, target, parts, lacking)
    return states | _overtaken(context, target, states, planned)


def _overtaken(
    context: RunContext, target: Target, states: Mapping[str, PartState], planned: Planned
) -> dict[str, PartState]:
    """Fresh partitions that depend on planned ones."""
    found = {}
    for source in target.upstream:
        first = planned.get((source.table, scope_text(source.scope)), [])
        if source.appearing:
            there = context.store.ledger.first_written(source.table, source.scope)
            first = [part for part in first if part not in there]
        for part in (part for part, state in states.items() if first and state.is_fresh and part not in found):
            span = source.span(part)
            place = bisect_left(first, span[0]) if span else len(first)
            if span and place < len(first) and first[place] <= span[1]:
                found[part] = PartState(STALE, f"{source.table} {first[place]} is to be written", states[part].rows)
    return found


def _writes(target: Target, parts: list[str], states: dict[str, PartState]) -> list[PlannedWrite]:
    found, place = [], 0
    for _, _, state, count in ranges(parts, states):
        if not state.is_fresh:
            found.append(PlannedWrite(target.label, parts[place : place + count], state))
        place += count
    return found
