"""Scores of trained VMs, and of the FM itself, on partitions of the store."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_store.spaces import SpaceRecord
from models.alignment import Alignment
from models.metrics import Scores, places_of
from models.vm_artifact import VmArtifact
from models.vm_train import score_vm
from pipelines.context import RunContext
from pipelines.vm_rows import feed, pin_rows


def score_parts(
    context: RunContext,
    vertical: str,
    artifact: VmArtifact,
    space: SpaceRecord,
    parts: list[str],
    known_at: int | None,
    alignment: Alignment | None = None,
) -> Scores:
    """Scores of all rows of ``parts`` whose label is known at ``known_at`` (None: of all rows), by example id.

    ``alignment`` maps the histories of ``space`` to the model's own.
    """
    pinned = pin_rows(context, space, parts)
    scores = score_vm(artifact, feed(context, vertical, artifact.config, pinned, parts, known_at, alignment))
    return scores.take(np.argsort(scores.example_id, kind="stable"))


def fm_scores(context: RunContext, vertical: str, space: SpaceRecord, parts: list[str], like: Scores) -> Scores:
    """The FM's own scores on the rows of ``like``: its logits as the features table keeps them."""
    rows = feature_rows(context, vertical, space, parts, ["example_id", "teacher_logit"])
    return by_logits(like, rows["example_id"].to_numpy(), rows["teacher_logit"].to_numpy())


def by_logits(like: Scores, ids: NDArray[np.int64], logits: NDArray[np.floating]) -> Scores:
    """Scores of the rows of ``like`` by ``logits`` [N] of examples ``ids`` [N], those rows among them."""
    return like.with_p(1 / (1 + np.exp(-logits.astype(np.float64)[places_of(ids, like.example_id)])))


def feature_rows(
    context: RunContext, vertical: str, space: SpaceRecord, parts: list[str], columns: list[str]
) -> pa.Table:
    """Columns of table features of one vertical, pinned: examples without a label are among them."""
    scope = {"space_id": space.space_id}
    version = context.pin("features", scope, parts)
    rows = context.store.arrow("features", version, scope, parts, ["vertical", *columns])
    return rows.filter(pc.equal(rows["vertical"], vertical)).select(columns)


def labelled_rows(
    context: RunContext, vertical: str, space: SpaceRecord, parts: list[str], columns: list[str]
) -> pa.Table:
    """Like ``feature_rows``, without examples that have no label: those that figures may be of."""
    rows = feature_rows(context, vertical, space, parts, list(dict.fromkeys([*columns, "label"])))
    return rows.filter(pc.is_valid(rows["label"])).select(columns)
