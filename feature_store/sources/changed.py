"""Rows of source files that changed after a partition was ingested, read without Spark: what ``status`` asks.

Only files that changed since are opened, and of those only row groups that may hold an ingested partition. An answer
needs instants that pyarrow reads as they stand: bare columns of Parquet files, or of CSV files with a header line.
"""

from __future__ import annotations

import glob
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from feature_store.clocks import INSTANTS_END, INSTANTS_START
from feature_store.config import DatasetConfig, InstantColumn, ReadConfig
from feature_store.object_store import on_s3, s3_uri
from feature_store.sources.paths import expand

CLOCK_SLACK_MS = 60_000
"""How far the clock of a file server may be behind; a file that is looked at in vain costs time only."""

_FILES_AT_ONCE = 8
_AS_PYARROW_READS = {"header": "true"}
"""Spark's options of a CSV file that change nothing here."""
_SCHEMA = pa.schema([("file", pa.string()), ("event_ts", pa.int64()), ("arrived_at", pa.int64())])


@dataclass(frozen=True)
class _File:
    """A file of the source, spelled as Spark spells it; ``inside`` is its path on its own file system."""

    path: str
    system: pafs.FileSystem
    inside: str
    changed: int


class _Ingested:
    """First and last of the partitions whose ingest began up to an instant: asked once a file."""

    def __init__(self, began: Mapping[str, int]) -> None:
        order = sorted(began, key=lambda part: began[part])
        self._began = [began[part] for part in order]
        self._first, self._last = list(accumulate(order, min)), list(accumulate(order, max))

    def until(self, instant: int) -> tuple[str, str] | None:
        count = bisect_right(self._began, instant)
        return (self._first[count - 1], self._last[count - 1]) if count else None


def changed_rows(dataset: DatasetConfig, ingested: Mapping[str, int]) -> pa.Table | None:
    """Rows of ingested partitions in files that changed after their ingest began.

    Args:
        dataset: the data set.
        ingested: partition -> when its ingest began (epoch ms, wall clock).

    Returns:
        file, event_ts and arrived_at of each row with a readable event; None where the source cannot tell: it is a
        Delta table, has a filter, or its instants are expressions or of a kind that only Spark reads.
    """
    read = dataset.source.read
    if read is None or dataset.source.where is not None or read.format == "delta":
        return None
    if read.options.items() - (_AS_PYARROW_READS if read.format == "csv" else {}).items():
        return None
    try:
        looked = _Ingested(ingested)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            found = list(pool.map(lambda file: _rows(dataset, read, file, looked), _files(read)))
    except (pa.ArrowException, KeyError, OSError, ValueError):
        return None
    return pa.concat_tables([_SCHEMA.empty_table(), *found])


def _files(read: ReadConfig) -> Iterator[_File]:
    for declared in read.paths:
        path = expand(declared)
        if on_s3(path):
            system, inside = pafs.FileSystem.from_uri(s3_uri(path))
            yield from _below(system, inside, path.split("://")[0] + "://")
        elif "://" in path or "{" in path:
            raise ValueError(f"{declared}: only Spark lists such a path")
        else:
            for found in sorted(glob.glob(path.removeprefix("file:"))):
                yield from _below(pafs.LocalFileSystem(), found, "")


def _below(system: pafs.FileSystem, path: str, prefix: str) -> Iterator[_File]:
    info = system.get_file_info(path)
    found = [info] if info.is_file else system.get_file_info(pafs.FileSelector(path, recursive=True))
    for file in found:
        hidden = any(name.startswith(("_", ".")) for name in file.path.removeprefix(path).split("/") if name)
        if file.is_file and not hidden:
            yield _File(prefix + file.path, system, file.path, file.mtime_ns // 1_000_000)


def _rows(dataset: DatasetConfig, read: ReadConfig, file: _File, ingested: _Ingested) -> pa.Table:
    parts = ingested.until(file.changed + CLOCK_SLACK_MS)
    if parts is None:
        return _SCHEMA.empty_table()
    span = (dataset.clock.start(parts[0]), dataset.clock.end(parts[1]))
    arrived = dataset.arrived_at or dataset.event_ts
    opened = ds.dataset(file.inside, filesystem=file.system, format=read.format)
    bounds = _bounds(opened.schema, dataset.event_ts, span)
    rows = opened.to_table(sorted({dataset.event_ts.value, arrived.value}), filter=bounds)
    events = _instants(rows[dataset.event_ts.value], dataset.event_ts)
    arrivals = _instants(rows[arrived.value], arrived)
    names = pa.array([file.path] * len(rows), pa.string())
    table = pa.table([names, events, arrivals], schema=_SCHEMA)
    held = pc.and_(pc.greater_equal(events, span[0]), pc.less(events, span[1]))
    return table.filter(pc.fill_null(held, False))


def _bounds(schema: pa.Schema, instant: InstantColumn, span: tuple[int, int]) -> ds.Expression | None:
    """The span on the column itself, so that row groups are skipped; None where its type does not allow it."""
    kind, column = schema.field(instant.value).type, ds.field(instant.value)
    if pa.types.is_integer(kind):
        scale = 1000 if instant.unit == "s" else 1
        return (column >= -(-span[0] // scale)) & (column < -(-span[1] // scale))
    if pa.types.is_timestamp(kind):
        edges = [pa.scalar(edge, pa.timestamp("ms", tz=kind.tz)).cast(kind) for edge in span]
        return (column >= edges[0]) & (column < edges[1])
    return None


def _instants(values: pa.ChunkedArray, instant: InstantColumn) -> pa.ChunkedArray:
    """Epoch milliseconds as ``expressions.instant_column`` reads them.

    Raises:
        ValueError: the column has a type that is read by Spark alone.
    """
    kind = values.type
    if pa.types.is_timestamp(kind):
        return pc.floor_temporal(values, unit="millisecond").cast(pa.timestamp("ms", tz=kind.tz)).cast(pa.int64())
    if instant.unit == "ms" and pa.types.is_integer(kind):
        return values.cast(pa.int64())
    if instant.unit == "s" and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        millis = pc.round(pc.multiply(values.cast(pa.float64()), 1000.0))
        readable = pc.and_(pc.greater_equal(millis, INSTANTS_START), pc.less(millis, INSTANTS_END))
        return pc.if_else(readable, millis, None).cast(pa.int64())
    raise ValueError(f"{instant.value}: only Spark reads {kind} with unit {instant.unit}")
