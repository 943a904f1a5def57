"""``predict`` and ``export-histories``: what serving does, from registry and histories alone, never from an FM."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_store.config import RAW_SPACE
from feature_store.export import export_histories
from feature_store.histories import segment_parts
from feature_store.spaces import SpaceRecord
from models.alignment import Alignment
from models.vm_artifact import VmArtifact, load_vm
from models.vm_data import HistoryKey, history_keys
from models.vm_score import predict_batch, score_vm
from pipelines.align import find_alignment
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.registry import CHAMPION, RegisteredModel
from pipelines.scoring import feature_rows
from pipelines.vm_rows import feed, pin_rows


def predict(
    context: RunContext,
    vertical: str,
    part: str,
    out: Path,
    version: str | None = None,
    histories: Path | None = None,
    space_id: str | None = None,
) -> int:
    """Score the examples of one partition with a registered VM and write example_id and p as Parquet.

    They are all that meet the vertical's filter, whether their labels are known or not.

    Args:
        context: the project.
        vertical: whose VM.
        part: partition of table features.
        out: file to write.
        version: model version; the champion when absent.
        histories: folder that ``export`` wrote; rows that read as of its instant find their history there, others none.
            The store's own histories when absent.
        space_id: space whose rows and histories are read; the model's own when absent. Another one needs a map to the
            model's, see ``loopfm align``.

    Returns:
        Rows written.

    Raises:
        SpaceMismatchError: ``space_id`` is another space and no map leads to the model's.
        StepError: no champion, or the folder holds no histories of a key that the VM reads.
    """
    model = _model(context, vertical, version)
    folder = context.registry.fetch(model, context.scratch / "registered" / f"{model.name}-{model.version}")
    artifact = load_vm(folder)
    own = context.spaces.get(artifact.inputs.space_id)
    space = own if space_id is None else context.spaces.get(space_id)
    alignment = None if space == own else find_alignment(context, space, own, part)
    if histories is None:
        scored = _from_store(context, artifact, space, part, alignment)
    else:
        scored = _from_export(context, artifact, space, part, histories, alignment)
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(scored, out)
    return int(scored.num_rows)


def export(context: RunContext, space: SpaceRecord, as_of_ms: int, out: Path) -> dict[str, int]:
    """Write each key's histories of ``space`` and of raw tokens, as readable at an instant: SPACE/KEY.parquet.

    Returns:
        ``SPACE/KEY`` -> histories written.

    Raises:
        StepError: no segments were written yet.
    """
    written: dict[str, int] = {}
    parts = segment_parts(context.dataset, [context.dataset.clock.part_of(as_of_ms)])
    for source in (space, None):
        space_id = RAW_SPACE if source is None else space.space_id
        scope = {"space_id": space_id}
        version = context.store.pin("segments", scope, parts, allow_missing=True)
        if version is None:
            raise StepError(f"segments of {space_id}: none written yet; run `loopfm segments {context.origin}` first")
        segments = context.store.read(context.spark, "segments", version, scope, parts)
        rows = export_histories(context.dataset, source, segments, as_of_ms).toArrow()
        for key in context.dataset.histories.keys:
            path = out / space_id / f"{key}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            own = rows.filter(pc.equal(rows["key"], key))
            pq.write_table(own, path)
            written[f"{space_id}/{key}"] = own.num_rows
    return written


def _model(context: RunContext, vertical: str, version: str | None) -> RegisteredModel:
    name = context.vm_name(vertical)
    if version is not None:
        return context.registry.by_version(name, version)
    champion = context.registry.by_alias(name, CHAMPION)
    if champion is None:
        raise StepError(f"{name}: no champion; promote a challenger first, or name a --version")
    return champion


def _from_store(
    context: RunContext, artifact: VmArtifact, space: SpaceRecord, part: str, alignment: Alignment | None
) -> pa.Table:
    pinned = pin_rows(context, space, [part])
    rows = feed(context, artifact.inputs.vertical, artifact.config, pinned, [part], None, alignment)
    scores = score_vm(artifact, rows)
    return pa.table({"example_id": scores.example_id, "p": scores.p})


def _from_export(
    context: RunContext,
    artifact: VmArtifact,
    space: SpaceRecord,
    part: str,
    folder: Path,
    alignment: Alignment | None,
) -> pa.Table:
    keys = {key for reader in artifact.config.readers for key in history_keys(reader)}
    columns = ["example_id", "event_ts", "as_of", *(f"key_{name}" for name in context.dataset.histories.keys)]
    columns += [spec.name for spec in artifact.inputs.specs(artifact.config)]
    rows = feature_rows(context, artifact.inputs.vertical, space, [part], list(dict.fromkeys(columns)))
    histories = {key: _exported(folder, space.space_id, key) for key in keys}
    p = predict_batch(artifact, rows.combine_chunks(), histories, alignment)
    return pa.table({"example_id": rows["example_id"], "p": p})


def _exported(folder: Path, space_id: str, key: HistoryKey) -> pa.Table:
    path = folder / (RAW_SPACE if key[0] == "raw" else space_id) / f"{key[1]}.parquet"
    if not path.is_file():
        raise StepError(f"{path}: no such file; run `loopfm export-histories` into this folder first")
    return pq.read_table(path)
