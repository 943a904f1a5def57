"""The generated world as a Spark source: rows stream out of the workers, none pass through the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from feature_store.clocks import PartitionClock
from feature_store.config import WorldConfig
from feature_store.world.rows import BAD_KINDS, WorldGrid, WorldRows, world_rows

FILE_COLUMN = "source_file"
WORLD_COLUMNS: dict[str, str] = {
    "user_id": "bigint",
    "item_id": "bigint",
    "surface": "int",
    "event_ms": "bigint",
    "arrived_ms": "bigint",
    "hour": "int",
    "segment": "int",
    "category": "int",
    "device": "int",
    "user_state": "float",
    "interest": "float",
    "item_state": "float",
    "context": "float",
    "click": "int",
    "purchase": "int",
    "purchase_known_ms": "bigint",
}
PLACEMENT_COLUMNS = {"placement": "int", "placement_quality": "float"}
_FILE_PREFIX = "world/"


def world_columns(world: WorldConfig) -> dict[str, str]:
    """Columns of a world's source rows and their Spark types."""
    return WORLD_COLUMNS | (PLACEMENT_COLUMNS if world.placements else {})


def world_frame(spark: SparkSession, world: WorldConfig, clock: PartitionClock, first: int, stop: int) -> DataFrame:
    """Source rows of [first, stop), columns ``world_columns`` and ``source_file`` (``world/PART``).

    ``click`` belongs to rows of surface 0 (feed), ``purchase`` to those of surface 1 (shop); bad rows are among them.
    """
    cells = WorldGrid.of(world, clock).cells(first, stop)
    tasks = max(1, min(len(cells), 2 * spark.sparkContext.defaultParallelism))
    schema = ", ".join(f"{name} {kind}" for name, kind in (*world_columns(world).items(), (FILE_COLUMN, "string")))
    return spark.range(cells.start, cells.stop, 1, tasks).mapInArrow(_generator(world, clock), schema)


def world_batches(world: WorldConfig, clock: PartitionClock, cells: Iterator[int] | range) -> Iterator[pa.RecordBatch]:
    """The same rows of some of the world's cells, without Spark."""
    grid = WorldGrid.of(world, clock)
    for cell, rows in world_rows(grid, cells):
        yield _record_batch(world, rows, _FILE_PREFIX + clock.part_of(grid.start + cell * grid.cell_ms))


def world_span(world: WorldConfig, clock: PartitionClock) -> tuple[int, int]:
    """[first instant, end) of the world."""
    grid = WorldGrid.of(world, clock)
    return grid.start, grid.end


def world_file_part(path: str) -> str:
    """Partition that a world's ``source_file`` stands for."""
    return path.removeprefix(_FILE_PREFIX)


def _generator(
    world: WorldConfig, clock: PartitionClock
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def generate(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return world_batches(world, clock, (cell for batch in batches for cell in batch.column(0).to_pylist()))

    return generate


def _record_batch(world: WorldConfig, rows: WorldRows, path: str) -> pa.RecordBatch:
    """Source rows with the planted faults; a duplicate is a row twice."""
    bad = {kind: rows.bad == i for i, kind in enumerate(BAD_KINDS)}
    label = np.where(bad["label"], 7, rows.label)
    context = np.where(bad["not finite"], np.nan, rows.context)
    arrived_at = np.where(bad["early arrival"], rows.event_ts - 3_600_000, rows.arrived_at)
    columns = [
        _column(rows.user + 1, pa.int64(), bad["null user"]),
        _column(rows.item + 1, pa.int64()),
        _column(rows.shop, pa.int32()),
        _column(rows.event_ts, pa.int64(), bad["null time"]),
        _column(arrived_at, pa.int64()),
        *(_column(a, pa.int32()) for a in (rows.hour, rows.segment, rows.category, rows.device)),
        *(_column(a, pa.float32()) for a in (rows.user_state, rows.interest, rows.item_state, context)),
        _column(label, pa.int32(), rows.shop),
        _column(label, pa.int32(), ~rows.shop),
        _column(rows.label_at, pa.int64(), ~rows.shop),
        *([_column(rows.placement, pa.int32()), _column(rows.quality, pa.float32())] if world.placements else []),
        pa.array([path] * len(rows.user), pa.string()),
    ]
    batch = pa.RecordBatch.from_arrays(columns, names=[*world_columns(world), FILE_COLUMN])
    again = np.flatnonzero(bad["duplicate"])
    return batch.take(pa.array(np.sort(np.concatenate([np.arange(batch.num_rows), again]))))


def _column(values: np.ndarray, kind: pa.DataType, null: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.array(values.astype(kind.to_pandas_dtype()), kind, mask=null)
