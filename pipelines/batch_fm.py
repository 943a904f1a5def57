"""The FM under the VMs' availability: as large, trained on the same partitions, its past seen only as a batch sees it.

What it gains is what a batch could carry at all; transfer ratios stand against it too (method section 6). It opens no
space and nothing reads its vectors.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from feature_store.commits import contents
from feature_store.spaces import SpaceRecord
from models.fm_score import FmScorer
from models.fm_train import train_fm
from models.metrics import Scores
from pipelines.context import RunContext
from pipelines.digest import digest
from pipelines.fm_declaration import batch_fm_dataset, inputs_context
from pipelines.fm_inputs import write_fm_inputs
from pipelines.fm_model import FM_ARTIFACTS, FM_FILE
from pipelines.plan import inputs_targets
from pipelines.progress import timed
from pipelines.specs import fm_specs
from pipelines.train_fm import fm_rows
from pipelines.write_range import Call

BATCH_FM_KIND = "batch-fm"
STEP_VERSION = 1


def batch_fm_scores(
    context: RunContext, vertical: str, space: SpaceRecord, parts: list[str], like: Scores, seed: int
) -> Scores:
    """Scores of the rows of ``like`` by the FM under the VMs' availability, trained where that was not done yet.

    Args:
        context: the project.
        vertical: whose head.
        space: of the FM that it is compared with: it trains and stops early on the same partitions.
        parts: partitions of the rows.
        like: the rows, by example id.
        seed: of weights and order.
    """
    own = _batch_context(context, space)
    tags = context.registry.run_tags(space.run_id)
    train, validation = (
        own.dataset.clock.between(*tags[f"loopfm.{name}"].split("..")) for name in ("train", "validation")
    )
    for window in (train + validation, parts):
        _write_inputs(own, window)
    scorer = FmScorer.load(_trained(own, train, validation, seed))
    inputs = own.store.arrow("fm_inputs", _pin(own, parts), {"inputs_id": own.inputs_id}, parts)
    _, logits = scorer.score(inputs)
    ids = inputs["example_id"].to_numpy()
    order = np.argsort(ids)
    place = order[np.searchsorted(ids, like.example_id, sorter=order)]
    logit = logits[place, own.dataset.heads.index(vertical)].astype(np.float64)
    return like.with_p(1 / (1 + np.exp(-logit)))


def _batch_context(context: RunContext, space: SpaceRecord) -> RunContext:
    declared = inputs_context(context, space)
    config = declared.config.model_copy(update={"dataset": batch_fm_dataset(declared.dataset)})
    return replace(declared, config=config)


def _write_inputs(own: RunContext, parts: list[str]) -> None:
    # Partial sums would pay only if it were written day by day.
    call = Call((inputs_targets(own)[0],), parts, lambda p: write_fm_inputs(own, p))
    if needed := call.needed(own):
        call.step(needed)


def _pin(own: RunContext, parts: list[str]) -> int:
    return own.pin("fm_inputs", {"inputs_id": own.inputs_id}, parts)


def _trained(own: RunContext, train: list[str], validation: list[str], seed: int) -> Path:
    """The trained model's file."""
    fresh = {"train": own.config.fm.train.model_copy(update={"seed": seed}), "warm_start": False, "snapshots": 1}
    config = own.config.fm.model_copy(update=fresh)
    versions = {
        "fm_inputs": own.pin("fm_inputs", {"inputs_id": own.inputs_id}, train + validation),
        "labels": own.pin("labels", {}, train + validation),
    }
    made_from = (own.store.identity("fm_inputs"), train, validation, contents(versions))
    idempotency = digest(BATCH_FM_KIND, STEP_VERSION, config, own.inputs_id, own.dataset.heads, *made_from)
    finished = own.registry.finished_run(idempotency)
    folder = own.scratch / BATCH_FM_KIND / idempotency
    if finished is not None:
        return own.registry.fetch_run_files(finished.info.run_id, FM_ARTIFACTS, folder) / FM_FILE
    tags = {"loopfm.kind": BATCH_FM_KIND, "loopfm.commit": own.commit, "loopfm.seed": str(seed)}
    tags |= {f"loopfm.version.{table}": str(version) for table, version in versions.items()}
    with own.registry.run(f"FM on batch features, seed {seed}", idempotency, tags) as run_id:
        with timed(own.progress, f"evaluate: an FM of the same size on batch features, seed {seed}"):
            rows = [fm_rows(own, versions, window, validation[-1]) for window in (train, validation)]
            result = train_fm(config, fm_specs(own.dataset), own.dataset.heads, rows[0], rows[1], folder, resume=True)
        upload = folder / "upload"
        upload.mkdir(exist_ok=True)
        shutil.copyfile(result.path, upload / FM_FILE)
        own.registry.log_files(run_id, upload, FM_ARTIFACTS)
        own.registry.log(run_id, config.model_dump(), {f"validation_{k}": v for k, v in result.metrics.items()})
    return upload / FM_FILE
