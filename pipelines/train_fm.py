"""Step ``train-fm``: train FM and codec on a window, register the FM, open its space."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_store.commits import Pin, contents
from feature_store.ledger import now_ms
from feature_store.spaces import SpaceRecord
from models.checkpoint import digest_file
from models.config import FmConfig
from models.external_fm import fit_external
from models.fm_data import FmRows
from models.fm_launch import launch, write_request
from models.fm_train import FmTrainResult
from models.fm_train import train_fm as fit_fm
from models.trainer import EpochRecord
from pipelines.context import RunContext
from pipelines.digest import digest, training_code
from pipelines.fm_chain import WARM_FROM, fm_chain
from pipelines.fm_declaration import FmDeclaration
from pipelines.fm_model import FM_ARTIFACTS, FM_FILE, fm_files, log_training
from pipelines.progress import timed
from pipelines.registry import CHAMPION
from pipelines.specs import fm_specs

STEP_VERSION = 1


@dataclass(frozen=True)
class FmTraining:
    """A training that is asked for: settings, pinned inputs, earlier FMs, and what a finished run of it is known by."""

    config: FmConfig
    versions: Mapping[str, Pin]
    chain: list[SpaceRecord]
    idempotency: str


def fm_training(context: RunContext, train_parts: list[str], validation_parts: list[str], seed: int = 0) -> FmTraining:
    """What ``train_fm`` would train.

    Raises:
        MissingInputError: fm_inputs or labels of a partition are missing.
    """
    parts = train_parts + validation_parts
    versions = {
        "fm_inputs": context.pin("fm_inputs", {"inputs_id": context.inputs_id}, parts),
        "labels": context.pin("labels", {}, parts),
    }
    config = context.config.fm.model_copy(update={"train": context.config.fm.train.model_copy(update={"seed": seed})})
    made_from = (context.store.identity("fm_inputs"), parts, train_parts[-1], contents(versions))
    chain = fm_chain(context, config, validation_parts[-1], seed)
    also = [space.space_id for space in chain]
    if config.external is not None:
        also.append(digest_file(config.external.checkpoint))
    heads = context.dataset.heads
    code = training_code(config.codec.own_parts)
    idempotency = digest("train-fm", STEP_VERSION, code, config, context.inputs_id, heads, *made_from, *also)
    return FmTraining(config, versions, chain, idempotency)


def train_fm(
    context: RunContext,
    train_parts: list[str],
    validation_parts: list[str],
    seed: int = 0,
    processes: int = 1,
    *,
    register: bool = True,
) -> SpaceRecord:
    """Train an FM on ``train_parts``, stop early on ``validation_parts``, and open the space of its vectors.

    Only labels known when the validation window closes are used. The same training again returns the first one's space,
    opened again where it was closed meanwhile.

    Args:
        context: the project.
        train_parts: partitions to train on.
        validation_parts: later partitions for early stopping.
        seed: of weights and order.
        processes: training processes on this machine; more than one starts torchrun.
        register: make it a version of the project's FM, alias champion.

    Raises:
        MissingInputError: fm_inputs or labels of a partition are missing.
    """
    training = fm_training(context, train_parts, validation_parts, seed)
    config, versions, chain, idempotency = training.config, training.versions, training.chain, training.idempotency
    finished = context.registry.finished_run(idempotency)
    if finished is not None:
        context.progress(f"train-fm: already trained, run {finished.info.run_id}")
        context.spaces.open(finished.data.tags["loopfm.space"])
        return context.spaces.get(finished.data.tags["loopfm.space"])
    tags = {"loopfm.kind": "fm", "loopfm.commit": context.commit, "loopfm.seed": str(seed)}
    tags |= {"loopfm.config": digest(context.config)}
    tags |= {"loopfm.train": f"{train_parts[0]}..{train_parts[-1]}"}
    tags |= {"loopfm.validation": f"{validation_parts[0]}..{validation_parts[-1]}"}
    tags |= {WARM_FROM: chain[-1].space_id} if chain else {}
    tags |= {f"loopfm.version.{table}": str(version) for table, version in versions.items()}
    with context.registry.run(f"fm seed {seed}", idempotency, tags) as run_id:
        with timed(context.progress, f"train-fm: {len(train_parts)} + {len(validation_parts)} partitions, seed {seed}"):
            rows = [
                fm_rows(context, versions, window, validation_parts[-1]) for window in (train_parts, validation_parts)
            ]
            folder = context.scratch / "train-fm" / idempotency
            result = _fit(context, config, rows, folder, processes, chain)
        space = _open_space(context, result, run_id)
        log_training(context, run_id, context.config.fm, result, folder)
        context.registry.client.set_tag(run_id, "loopfm.space", space.space_id)
        if register:
            model = context.registry.register(context.fm_name, run_id, FM_ARTIFACTS, {"loopfm.space": space.space_id})
            context.registry.set_alias(context.fm_name, CHAMPION, model.version)
        context.spaces.add(space)
        shutil.rmtree(folder)
    return space


def fm_rows(context: RunContext, versions: Mapping[str, int], parts: list[str], last: str) -> FmRows:
    """Rows of ``parts`` at pinned versions, with the labels that are known when partition ``last`` closes."""
    scope = {"inputs_id": context.inputs_id}
    inputs = context.store.arrow("fm_inputs", versions["fm_inputs"], scope, parts)
    labels = context.store.arrow("labels", versions["labels"], {}, parts)
    return FmRows(inputs, labels, context.dataset.clock.end(last))


def _fit(
    context: RunContext, config: FmConfig, rows: list[FmRows], folder: Path, processes: int, chain: list[SpaceRecord]
) -> FmTrainResult:
    def report(record: EpochRecord) -> None:
        context.progress(f"train-fm: epoch {record.epoch + 1}, validation NE {record.validation_ne:.4f}")

    specs, heads = fm_specs(context.dataset), context.dataset.heads
    if config.external is not None:
        return fit_external(config, config.external, heads, rows[0], rows[1], folder, report)
    files = [fm_files(context, space) for space in chain]
    start, snapshots = (files[-1], files if config.snapshots > 1 else []) if files else (None, [])
    if processes == 1:
        return fit_fm(
            config, specs, heads, rows[0], rows[1], folder, report, resume=True, start=start, snapshots=snapshots
        )
    write_request(folder, config, specs, heads, rows[0], rows[1], start, snapshots)
    return launch(folder, processes, report, resume=True)


def _open_space(context: RunContext, result: FmTrainResult, run_id: str) -> SpaceRecord:
    config, dataset = context.config.fm, context.dataset
    return SpaceRecord(
        space_id=f"fm-{digest(result.digest, config.captures, config.codec)[:8]}",
        inputs_id=context.inputs_id,
        fm_train_cutoff=result.newest_instant,
        training_lag_ms=dataset.training_lag,
        heads=dataset.heads,
        dim=config.codec.dim,
        bits=config.codec.bits,
        captures=config.captures if config.external is None else [config.external.load],
        model_path=f"runs:/{run_id}/{FM_ARTIFACTS}/{FM_FILE}",
        model_digest=result.digest,
        run_id=run_id,
        opened_at=now_ms(),
        declaration=FmDeclaration.of(dataset).model_dump(mode="json"),
    )
