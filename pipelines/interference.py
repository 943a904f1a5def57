"""Non-interference: everything that becomes known after an instant turned to noise changes nothing known before it.

The steps themselves run on a source whose future is noise (``pipelines.noise``), in two calls each, so that the second
reads the partial sums of the first; then every table's rows that are visible at the instant are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from feature_store.config import RAW_SPACE
from feature_store.histories import history_requests
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.interference_feed import changed_reads
from pipelines.noise import noised_dataset
from pipelines.windows import RunWindows
from pipelines.write_range import source_calls, space_calls

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SAMPLE = 2
"""Partitions up to the instant whose histories and features are compared."""
FOLDER = "noised"
Scope = dict[str, str]


def sample_chunks(windows: RunWindows) -> list[list[str]]:
    """The range in the calls that both pipelines make: what lies before the sample, the sample and the partition after
    it, and the rest.

    A call that covers the same partitions reads the same partial sums, so that rows are equal to the byte.
    """
    parts, place = windows.parts, windows.parts.index(windows.vm_train[-1])
    first, stop = max(place - SAMPLE + 1, 0), place + 2
    return [chunk for chunk in (parts[:first], parts[first:stop], parts[stop:]) if chunk]


def write_in_chunks(
    context: RunContext, space: SpaceRecord | None, windows: RunWindows, chunks: list[list[str]]
) -> None:
    """Call every step of the tables of all spaces (``space``: of one) for each of ``chunks``, whatever is fresh."""
    for chunk in chunks:
        read = [part for part in chunk if part in windows.vm]
        own = [part for part in chunk if part in windows.outputs]
        calls = source_calls(context, chunk, read) if space is None else space_calls(context, space, own, read)
        for call in chain.from_iterable(calls):
            if call.parts:
                call.step(call.parts)


def changed_rows(context: RunContext, space: SpaceRecord, windows: RunWindows) -> dict[str, int]:
    """Per table, how many rows that are visible at an instant change when the future becomes noise.

    The instant lies in the middle of the VM's last training partition, inside a partition rather than at its border.
    Compared are all partitions up to it; of histories and features, and of what VMs read, the newest ``SAMPLE``.

    Args:
        context: a project whose tables are written up to the partition after the instant, in ``sample_chunks``.
        space: its space; the FM's own window closed before the instant.
        windows: of the project.
    """
    clock = context.dataset.clock
    instant = clock.start(windows.vm_train[-1]) + context.dataset.grain // 2
    chunks = [chunk for chunk in sample_chunks(windows) if clock.start(chunk[0]) <= instant]
    changed: dict[str, int] = {}
    for noise in _noises(context):
        noisy = _noised(context, instant, noise)
        noisy.spaces.add(space)
        write_in_chunks(noisy, None, windows, chunks)
        write_in_chunks(noisy, space, windows, chunks)
        for name, rows in _Compared(context, noisy, space, windows, instant, noise).changed():
            changed[name] = changed.get(name, 0) + rows
    return changed


@dataclass(frozen=True)
class _Noise:
    """``arrivals``: rows that happened before and arrive later are noise; ``fm``: the FM's tables are compared."""

    name: str
    arrivals: bool
    fm: bool


def _noises(context: RunContext) -> list[_Noise]:
    """One noise for all tables where the FM reads nothing of other rows, or no row arrives later; else one for each
    clock: the FM is offline, so what it reads of earlier events does not depend on when they arrived."""
    dataset = context.dataset
    others = {f.name for f in dataset.as_of} | {f.name for f in dataset.event_lists}
    if dataset.arrived_at is None or not others.intersection(dataset.fm_features):
        return [_Noise("future", arrivals=True, fm=True)]
    return [_Noise("events", arrivals=False, fm=True), _Noise("arrivals", arrivals=True, fm=False)]


def _noised(context: RunContext, instant: int, noise: _Noise) -> RunContext:
    """The project over the noised source, in a folder of its own; models are those of the project."""
    folder = f"{context.folder}/{FOLDER}/{noise.name}"
    dataset = noised_dataset(context.spark, context.dataset, instant, f"{folder}/source", arrivals=noise.arrivals)
    config = context.config.model_copy(update={"dataset": dataset})
    return replace(context, config=config, root=folder, tracking_uri=context.registry.tracking_uri)


class _Compared:
    """Tables of the project and of the noised one, their rows that are visible at the instant."""

    def __init__(
        self,
        honest: RunContext,
        noisy: RunContext,
        space: SpaceRecord,
        windows: RunWindows,
        instant: int,
        noise: _Noise,
    ) -> None:
        self.honest, self.noisy, self.space, self.instant, self.noise = honest, noisy, space, instant, noise
        start = honest.dataset.clock.start
        self.parts = [part for part in windows.parts if start(part) <= instant]
        self.outputs = [part for part in self.parts if part in windows.outputs]
        self.sample = [part for part in self.parts if part in windows.vm][-SAMPLE:]
        self.seen = f"event_ts <= {instant} AND arrived_at <= {instant}"

    def changed(self) -> Iterator[tuple[str, int]]:
        """(table, changed rows)."""
        own, inputs = {"space_id": self.space.space_id}, {"inputs_id": self.honest.inputs_id}
        raw = {"space_id": RAW_SPACE}
        yield "examples", self._rows("examples", {}, self.parts, lambda rows: rows.where(self.seen))
        yield "labels", self._rows("labels", {}, self.parts, self._known_labels)
        if self.honest.dataset.source.past_events is not None:
            past = [part for part in self.honest.store.ledger.coverage("past_events", {}) if part <= self.parts[-1]]
            yield "past_events", self._rows("past_events", {}, past, lambda r: r.where(f"event_ts <= {self.instant}"))
        yield "segments raw", self._rows("segments", raw, self.parts, self._closed)
        yield "histories raw", self._rows("histories", raw, self.sample, lambda rows: self._requested(rows, None))
        yield "features", self._rows("features", own, self.sample, self._features)
        if not self.noise.fm:
            return
        yield "fm_inputs", self._rows("fm_inputs", inputs, self.parts, lambda rows: rows.where(self.seen))
        yield "fm_outputs", self._rows("fm_outputs", own, self.outputs, lambda rows: rows.where(self.seen))
        yield "segments", self._rows("segments", own, self.outputs, self._closed)
        yield "histories", self._rows("histories", own, self.sample, lambda rows: self._requested(rows, self.space))
        yield "what VMs read", changed_reads(self.honest, self.noisy, self.space, self.sample, self.instant)

    def _rows(self, table: str, scope: Scope, parts: list[str], seen: Callable[[DataFrame], DataFrame]) -> int:
        """Rows of a table that only one of the two projects has."""
        honest, noisy = (seen(self._read(context, table, scope, parts)) for context in (self.honest, self.noisy))
        return honest.exceptAll(noisy).count() + noisy.exceptAll(honest).count()

    def _read(self, context: RunContext, table: str, scope: Scope, parts: list[str]) -> DataFrame:
        return context.store.read(context.spark, table, context.pin(table, scope, parts), scope, parts)

    def _examples(self) -> DataFrame:
        """The project's own examples that are visible at the instant."""
        return self._read(self.honest, "examples", {}, self.parts).where(self.seen)

    def _known_labels(self, rows: DataFrame) -> DataFrame:
        known = rows.where(f"label_available_at <= {self.instant}")
        return known.join(self._examples().select("example_id"), "example_id", "left_semi")

    def _features(self, rows: DataFrame) -> DataFrame:
        """Features of visible examples, without labels that are not known yet."""
        from pyspark.sql import functions as F

        rows = rows.join(self._examples().select("example_id"), "example_id", "left_semi")
        for column in ("label", "label_available_at"):
            rows = rows.withColumn(column, F.when(F.col("label_available_at") <= self.instant, F.col(column)))
        return rows if self.noise.fm else rows.drop("teacher_logit")

    def _closed(self, segments: DataFrame) -> DataFrame:
        return self._masked(segments.where(f"arrival_end <= {self.instant}"))

    def _requested(self, histories: DataFrame, space: SpaceRecord | None) -> DataFrame:
        """Histories that visible examples read."""
        asked = history_requests(self.honest.dataset, self._examples(), space)
        return self._masked(histories.join(asked, ["part", "key", "key_id", "as_of"], "left_semi"))

    def _masked(self, rows: DataFrame) -> DataFrame:
        """Tokens without labels that are not known at the instant: tables hold them, readers mask them."""
        from pyspark.sql import functions as F

        visible = F.zip_with("labels", "label_available_at", lambda label, at: F.when(at <= self.instant, label))
        at = F.transform("label_available_at", lambda at: F.when(at <= self.instant, at))
        return rows.withColumn("labels", visible).withColumn("label_available_at", at)
