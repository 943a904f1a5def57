"""FM inference in Spark: Arrow in and out, one pass per example, bytes that do not depend on how the work was cut.

Rows of a part are spread over buckets by a hash of example_id, a fixed number of them for the part's row count. A
bucket's rows, sorted by example_id, fill model batches of fixed size that never hold rows of two buckets: a row always
meets the same neighbours, whatever range of parts, Spark partitions or Arrow batches it comes in.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_store.checks import spark_schema
from feature_store.config import DatasetConfig
from feature_store.schemas import fm_outputs_schema
from feature_store.spaces import SpaceRecord
from models.fm_score import MODEL_BATCH
from models.scorer import Scorer, load_scorer

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Rows of a bucket: enough batches that a short last one costs little, few enough that buckets spread evenly over tasks.
BUCKET_ROWS = 32 * MODEL_BATCH

# Tasks per core: when one core is slower, the others take more of them.
TASKS_PER_CORE = 4

# Batches scored at a time: the rows that a worker holds, whatever the size of Arrow's batches.
BATCHES_HELD = 8

GROUP, TASK = "_group", "_task"


@dataclass(frozen=True)
class ScoreSettings:
    """What a worker needs: the model file, and which columns to put out.

    ``shipped``: the file was sent by Spark and lies in the worker's own folder under this name.
    """

    path: str
    digest: str
    shipped: bool
    threads: int
    space_id: str
    schema: pa.Schema


def fm_outputs_frame(
    spark: SparkSession, dataset: DatasetConfig, inputs: DataFrame, space: SpaceRecord, model: str | Path
) -> DataFrame:
    """fm_outputs of all rows of ``inputs`` (fm_inputs of any parts) by the FM of ``space``.

    Args:
        spark: the session; ``spark.task.cpus`` is the thread count of a worker.
        dataset: names the entities and the features that compose keys.
        inputs: rows of fm_inputs. Counted once, read once.
        space: names the model's digest.
        model: local path of the model file; sent to the executors when the master is not local.

    Raises (in the job):
        ArtifactError: the file's digest is not that of the space.
    """
    rows = {row["part"]: row["count"] for row in inputs.groupBy("part").count().collect()}
    schema = fm_outputs_schema(dataset)
    local = (spark.sparkContext.master or "").startswith("local")
    settings = ScoreSettings(
        path=str(model) if local else _ship(spark, Path(model), space.model_digest),
        digest=space.model_digest,
        shipped=not local,
        threads=int(spark.conf.get("spark.task.cpus", "1") or 1),
        space_id=space.space_id,
        schema=schema,
    )
    placed = _placed(spark, inputs, rows)
    return placed.mapInArrow(partial(score_batches, settings=settings), spark_schema(schema))


def bucket_count(rows: int) -> int:
    """Buckets of a part of ``rows`` rows."""
    return max(1, -(-rows // BUCKET_ROWS))


def score_batches(batches: Iterable[pa.RecordBatch], settings: ScoreSettings) -> Iterator[pa.RecordBatch]:
    """Score rows sorted by (_group, example_id); runs in a Python worker."""
    scorer = None
    for rows in model_sized(batches, BATCHES_HELD * MODEL_BATCH):
        scorer = scorer or _scorer(settings)
        yield _outputs(rows, *scorer.score(rows), settings)


def model_sized(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """Cut and join batches into runs of one group: ``size`` rows each, fewer only at a group's end."""
    held: list[pa.RecordBatch] = []
    count, current = 0, None
    for piece in (piece for batch in batches for piece in _by_group(batch)):
        group = piece.column(GROUP)[0].as_py()
        if group != current and held:
            yield pa.concat_batches(held)
            held, count = [], 0
        current = group
        while count + piece.num_rows >= size:
            yield pa.concat_batches([*held, piece.slice(0, size - count)])
            piece = piece.slice(size - count)
            held, count = [], 0
        if piece.num_rows:
            held, count = [*held, piece], count + piece.num_rows
    if held:
        yield pa.concat_batches(held)


def _placed(spark: SparkSession, inputs: DataFrame, rows: Mapping[str, int]) -> DataFrame:
    """Inputs with their group, each task holding whole groups in order."""
    from pyspark.sql import functions as F

    tasks, plan = plan_groups(rows, spark.sparkContext.defaultParallelism)
    first_group = spark.createDataFrame(plan, "part string, buckets int, first int, start long, bucket_rows double")
    joined = inputs.join(F.broadcast(first_group), "part")
    bucket = F.pmod(F.xxhash64("example_id"), F.col("buckets")).cast("int")
    total = max(1, sum(rows.values()))
    task = F.least(((F.col("start") + bucket * F.col("bucket_rows")) * tasks / total).cast("int"), F.lit(tasks - 1))
    placed = joined.withColumn(GROUP, F.col("first") + bucket).withColumn(TASK, task)
    return (
        placed.repartitionById(tasks, TASK)
        .drop("buckets", "first", "start", "bucket_rows", TASK)
        .sortWithinPartitions(GROUP, "example_id")
    )


def plan_groups(rows: Mapping[str, int], cores: int) -> tuple[int, list[tuple[str, int, int, int, float]]]:
    """Tasks, and for each part (part, buckets, number of its first group, rows before it, rows of a bucket)."""
    plan, group, start = [], 0, 0
    for part, count in sorted(rows.items()):
        buckets = bucket_count(count)
        plan.append((part, buckets, group, start, count / buckets))
        group, start = group + buckets, start + count
    enough = -(-start // (4 * MODEL_BATCH))
    return max(1, min(cores * TASKS_PER_CORE, group, enough)), plan


def _by_group(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    groups = batch.column(GROUP).to_numpy()
    borders = [0, *(np.flatnonzero(groups[1:] != groups[:-1]) + 1).tolist(), len(groups)]
    for start, end in pairwise(borders):
        if end > start:
            yield batch.slice(start, end - start)


def _outputs(
    rows: pa.RecordBatch, codes: npt.NDArray[np.uint8], logits: npt.NDArray[np.float32], settings: ScoreSettings
) -> pa.RecordBatch:
    made = {
        "space_id": pa.repeat(pa.scalar(settings.space_id), rows.num_rows),
        "z": _binary(codes),
        "logits": _lists(logits),
    }
    columns = [made[name] if name in made else rows.column(name) for name in settings.schema.names]
    return pa.RecordBatch.from_arrays(columns, names=settings.schema.names)


def _binary(codes: npt.NDArray[np.uint8]) -> pa.Array:
    offsets = _offsets(*codes.shape)
    return pa.Array.from_buffers(
        pa.binary(), len(codes), [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(codes))]
    )


def _lists(values: npt.NDArray[np.float32]) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(_offsets(*values.shape)), pa.array(values.reshape(-1)))


def _offsets(count: int, width: int) -> npt.NDArray[np.int32]:
    return np.arange(count + 1, dtype=np.int32) * np.int32(width)


_LOADED: dict[str, Scorer] = {}


def _scorer(settings: ScoreSettings) -> Scorer:
    """The model, loaded once a worker process and kept for its later tasks; on a GPU where the executor has one."""
    if settings.digest not in _LOADED:
        path = settings.path
        if settings.shipped:
            from pyspark import SparkFiles

            path = SparkFiles.get(settings.path)
        _LOADED.clear()
        _LOADED[settings.digest] = load_scorer(path, settings.digest, threads=settings.threads, device=_device())
    return _LOADED[settings.digest]


def _device() -> str:
    import torch
    from pyspark import TaskContext

    if not torch.cuda.is_available():
        return "cpu"
    context = TaskContext.get()
    assigned = context.resources().get("gpu") if context is not None else None
    return f"cuda:{assigned.addresses[0]}" if assigned else "cuda:0"


def _ship(spark: SparkSession, model: Path, digest: str) -> str:
    """Send the model to the executors under a name of its own; returns that name."""
    name = f"fm-{digest}.pt"
    copy = Path(tempfile.mkdtemp(prefix="loopfm-fm-")) / name
    shutil.copyfile(model, copy)
    spark.sparkContext.addFile(str(copy))
    return name
