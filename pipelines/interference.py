"""Non-interference: everything that becomes known after an instant turned to noise changes nothing known before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from feature_store.asof import counters_frame, fm_inputs_frame
from feature_store.asof_plan import counter_names
from feature_store.histories import histories_frame, history_requests
from feature_store.segments import segments_frame
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.windows import RunWindows

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_FLOOR_SEED = 1_000_003


def changed_rows(context: RunContext, space: SpaceRecord, windows: RunWindows) -> dict[str, int]:
    """Per table, how many rows of examples at or before an instant change when the future becomes noise.

    The instant lies in the middle of the VM's last training partition, inside a partition rather than at its border.
    Noise: rows that happen (VM's clock: or arrive) later read other users and items; labels known later are flipped;
    vectors of later rows are replaced.
    """
    clock = context.dataset.clock
    instant = clock.start(windows.vm_train[-1]) + context.dataset.grain // 2
    parts = [part for part in windows.parts if clock.start(part) <= instant]
    made = _Made(context, space, parts, instant)
    builders: dict[str, Callable[[bool], DataFrame | None]] = {
        "fm_inputs": made.fm_inputs,
        "counters": made.counters,
        "histories of raw tokens": lambda noisy: made.histories(None, noisy),
        "histories of FM tokens": lambda noisy: made.histories(space, noisy),
    }
    changed = {}
    for name, build in builders.items():
        honest, noisy = build(False), build(True)
        if honest is not None and noisy is not None:
            changed[name] = honest.exceptAll(noisy).count() + noisy.exceptAll(honest).count()
    return changed


class _Made:
    """Tables of rows at or before the instant, made of honest inputs or of inputs whose future is noise."""

    def __init__(self, context: RunContext, space: SpaceRecord, parts: list[str], instant: int) -> None:
        self.context, self.space, self.parts, self.instant = context, space, parts, instant
        self.spark, self.dataset = context.spark, context.dataset

    def fm_inputs(self, noisy: bool) -> DataFrame:
        examples, labels = self._examples(noisy, arrivals=False), self._labels(noisy)
        past = self._read("past_events", {}) if self.dataset.source.past_events is not None else None
        made = fm_inputs_frame(self.spark, self.dataset, examples, labels, past, self.parts, self.context.inputs_id)
        return made.where(f"event_ts <= {self.instant}")

    def counters(self, noisy: bool) -> DataFrame | None:
        names = counter_names(self.dataset)
        if not names:
            return None
        examples = self._examples(noisy, arrivals=True)
        made = counters_frame(self.spark, self.dataset, examples, self._labels(noisy), self.parts, names)
        return made.join(self._earlier_ids(), "example_id", "left_semi")

    def histories(self, space: SpaceRecord | None, noisy: bool) -> DataFrame:
        tokens = self._examples(noisy, arrivals=True) if space is None else self._outputs(noisy)
        past = None
        if space is None and self.dataset.source.past_events is not None:
            past = self._read("past_events", {})
        parts = [part for part in self.parts if space is None or part in self._output_parts()]
        segments = segments_frame(self.spark, self.dataset, space, tokens, self._labels(noisy), parts, past)
        requests = history_requests(self.dataset, self._read("examples", {}).where(self._known()), space)
        space_id = "raw" if space is None else space.space_id
        return self._masked(histories_frame(self.spark, self.dataset, space_id, segments, requests))

    def _known(self) -> str:
        return f"event_ts <= {self.instant} AND arrived_at <= {self.instant}"

    def _earlier_ids(self) -> DataFrame:
        return self._read("examples", {}).where(self._known()).select("example_id")

    def _output_parts(self) -> list[str]:
        done = self.context.store.ledger.coverage("fm_outputs", {"space_id": self.space.space_id})
        return [part for part in self.parts if part in done]

    def _read(self, table: str, scope: dict[str, str]) -> DataFrame:
        done = self.context.store.ledger.coverage(table, scope)
        parts = sorted(part for part in done if part <= self.parts[-1])
        return self.context.store.read(self.spark, table, self.context.pin(table, scope, parts), scope, parts)

    def _examples(self, noisy: bool, *, arrivals: bool) -> DataFrame:
        rows = self._read("examples", {})
        return self._strangers(rows, arrivals) if noisy else rows

    def _strangers(self, rows: DataFrame, arrivals: bool) -> DataFrame:
        """Rows of the future as rows of other users and items."""
        from pyspark.sql import functions as F

        late = F.col("event_ts") > self.instant
        if arrivals:
            late = late | (F.col("arrived_at") > self.instant)
        for name in self.dataset.entities:
            stranger = F.pmod(F.xxhash64("example_id", F.lit(name)), F.lit(_FLOOR_SEED))
            rows = rows.withColumn(name, F.when(late, stranger).otherwise(F.col(name)))
        return rows

    def _labels(self, noisy: bool) -> DataFrame:
        from pyspark.sql import functions as F

        rows = self._read("labels", {})
        flipped = F.when(F.col("label_available_at") > self.instant, 1 - F.col("label")).otherwise(F.col("label"))
        return rows.withColumn("label", flipped.cast("tinyint")) if noisy else rows

    def _outputs(self, noisy: bool) -> DataFrame:
        from pyspark.sql import functions as F

        rows = self._read("fm_outputs", {"space_id": self.space.space_id})
        if not noisy:
            return rows
        late: Column = (F.col("event_ts") > self.instant) | (F.col("arrived_at") > self.instant)
        noise = F.substring(F.unhex(F.sha2(F.col("z"), 512)), 1, self.space.code_bytes)
        logits = F.transform("logits", lambda logit: -logit)
        rows = rows.withColumn("z", F.when(late & (F.length(noise) == F.length("z")), noise).otherwise(F.col("z")))
        return self._strangers(
            rows.withColumn("logits", F.when(late, logits).otherwise(F.col("logits"))), arrivals=True
        )

    def _masked(self, histories: DataFrame) -> DataFrame:
        """Histories as an example at the instant sees them: labels known later are not there."""
        from pyspark.sql import functions as F

        visible = F.zip_with("labels", "label_available_at", lambda label, at: F.when(at <= self.instant, label))
        at = F.transform("label_available_at", lambda at: F.when(at <= self.instant, at))
        return histories.withColumn("labels", visible).withColumn("label_available_at", at)
