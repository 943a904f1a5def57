"""A copy of a project's source in which everything that becomes known after an instant is noise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from feature_store.config import DatasetConfig, InstantColumn, LabelColumn, PastEvents, ReadConfig
from pipelines.errors import StepError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from feature_store.sources.reader import RawSource

SEED = 20_260_101
DROPPED = 3
"""One of so many later rows is left out."""


def noised_dataset(
    spark: SparkSession, dataset: DatasetConfig, instant: int, folder: str, *, arrivals: bool
) -> DatasetConfig:
    """Write a data set's source below ``folder``, its future made noise; the data set that reads it.

    Of rows that happen after ``instant`` some are left out and the others dealt anew: every column but the times is
    shuffled by itself. Labels that become known after it are flipped, those of earlier rows too. Undated rows are left
    out, since their partition follows from their file.

    Args:
        spark: the session.
        dataset: whose source; side tables stay as they are.
        instant: epoch ms; what is known then stays as it is.
        folder: path or URI below which two Parquet folders are written.
        arrivals: rows that happened earlier and arrive after ``instant`` are noise as well.
    """
    from feature_store.sources.expressions import lenient
    from feature_store.sources.pipeline import open_raw

    source = dataset.source
    with lenient(spark):
        raw = open_raw(spark, dataset, None, frozenset())
        times = [dataset.event_ts, *([dataset.arrived_at] if dataset.arrived_at and arrivals else [])]
        _write(
            _noised(_columns(_readable(raw, "source"), raw.columns), times, _fixed(dataset), instant), f"{folder}/rows"
        )
        past = source.past_events and _noised_past(spark, source.past_events, instant, f"{folder}/past")
    changed = {"read": _parquet(f"{folder}/rows"), "world": None, "expected_columns": None, "past_events": past}
    labels = {name: _flipped(dataset, label, instant) for name, label in dataset.labels.items()}
    return dataset.model_copy(update={"source": source.model_copy(update=changed), "labels": labels})


def _noised_past(spark: SparkSession, past: PastEvents, instant: int, folder: str) -> PastEvents:
    from feature_store.sources.explode import explode_together
    from feature_store.sources.reader import read_source

    raw = read_source(spark, past.read, past.expected_columns)
    rows = _readable(raw, "source.past_events")
    rows = explode_together(rows, past.explode) if past.explode else rows
    time = InstantColumn(value=past.event_ts, unit=past.unit)
    _write(_noised(_columns(rows, raw.columns), [time], [past.event_ts], instant), folder)
    return past.model_copy(update={"read": _parquet(folder), "explode": [], "expected_columns": None})


def _noised(rows: DataFrame, times: list[InstantColumn], fixed: list[str], instant: int) -> DataFrame:
    from pyspark.sql import functions as F

    from feature_store.sources.expressions import instant_column, resolve

    kinds = resolve(rows, {time.value: time.value for time in times})
    instants = [instant_column(F.expr(t.value), kinds[t.value], t.unit, t.value) for t in times]
    dated = rows.withColumn("_later", F.greatest(*instants) > instant if len(instants) > 1 else instants[0] > instant)
    dated = dated.where(instants[0].isNotNull())
    kept = dated.where(~F.coalesce("_later", F.lit(False))).drop("_later")
    later = dated.where("_later").drop("_later")
    later = later.where(F.pmod(F.xxhash64(*later.columns), F.lit(DROPPED)) > 0)
    words = {word for sql in fixed for word in re.findall(r"\w+", sql)}
    dealt = later.repartition(rows.sparkSession.sparkContext.defaultParallelism)
    return kept.unionByName(dealt.mapInArrow(_shuffle(words), later.schema))


def _shuffle(fixed: set[str]) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def shuffle(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rng = np.random.default_rng(SEED)
        for batch in batches:
            columns = [
                column if name in fixed else column.take(pa.array(rng.permutation(batch.num_rows)))
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=batch.schema)

    return shuffle


def _fixed(dataset: DatasetConfig) -> list[str]:
    """SQL of every instant, and of labels that need one of their own: the columns that it names keep their rows."""
    known = [sql for label in dataset.labels.values() if label.available_at for sql in _of_label(label)]
    return [dataset.event_ts.value, *([dataset.arrived_at.value] if dataset.arrived_at else []), *known]


def _of_label(label: LabelColumn) -> list[str]:
    return [label.value, *([label.available_at.value] if label.available_at else [])]


def _flipped(dataset: DatasetConfig, label: LabelColumn, instant: int) -> LabelColumn:
    """The label, flipped where it becomes known after the instant."""
    known = _milliseconds(label.available_at or dataset.event_ts)
    if label.available_at is None:
        known = f"{known} + {label.delay}"
    if dataset.arrived_at is not None:
        known = f"greatest({known}, {_milliseconds(dataset.arrived_at)})"
    number = f"cast(({label.value}) as double)"
    flipped = f"case when {known} > {instant} and {number} in (0, 1) then 1 - {number} else {number} end"
    return label.model_copy(update={"value": flipped})


def _milliseconds(instant: InstantColumn) -> str:
    if instant.unit == "ms":
        return f"cast(({instant.value}) as long)"
    if instant.unit == "s":
        return f"cast(round(cast(({instant.value}) as double) * 1000) as long)"
    return f"unix_millis(cast(({instant.value}) as timestamp))"


def _readable(raw: RawSource, field: str) -> DataFrame:
    if raw.frame is None:
        raise StepError(f"{field}: no readable file, so there is nothing to prove; `loopfm check` names the files")
    return raw.frame


def _columns(rows: DataFrame, names: list[str]) -> DataFrame:
    return rows.select(*(f"`{name}`" for name in names))


def _write(rows: DataFrame, folder: str) -> None:
    rows.write.mode("overwrite").parquet(folder)


def _parquet(folder: str) -> ReadConfig:
    return ReadConfig(format="parquet", paths=[folder])
