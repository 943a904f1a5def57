"""What an FM's run keeps in MLflow: its file, with a checked local copy for what loads it, and its settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pydantic import ValidationError

from feature_store.spaces import SpaceRecord
from models.checkpoint import digest_file
from models.config import FmConfig
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.plots import learning_curve
from pipelines.run_plots import log_plots

if TYPE_CHECKING:
    from models.fm_train import FmTrainResult

FM_ARTIFACTS = "fm"
FM_FILE = "model.pt"
SETTINGS_FILE = "config.json"


def fm_files(context: RunContext, space: SpaceRecord) -> Path:
    """Local copy of the FM file of ``space``: see ``model_file``."""
    return model_file(context, space.run_id, space.model_digest)


def model_file(context: RunContext, run_id: str, digest: str) -> Path:
    """Local copy of the FM file of a run, fetched once; what loads it checks the digest."""
    local = context.scratch / "fm" / digest[:16] / FM_FILE
    if local.is_file() and digest_file(local) == digest:
        return local
    local.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=context.scratch) as folder:
        fetched = context.registry.fetch_run_files(run_id, f"{FM_ARTIFACTS}/{FM_FILE}", Path(folder))
        shutil.copyfile(fetched, local)
    return local


def log_training(context: RunContext, run_id: str, settings: FmConfig, result: FmTrainResult, folder: Path) -> None:
    """Log what a training of an FM made: its file and settings, parameters, validation metrics and curve.

    ``folder``: of the training; what is uploaded is gathered below it.
    """
    registry, upload = context.registry, folder / "upload"
    upload.mkdir(exist_ok=True)
    shutil.copyfile(result.path, upload / FM_FILE)
    (upload / SETTINGS_FILE).write_text(settings.model_dump_json(indent=2))
    registry.log_files(run_id, upload, FM_ARTIFACTS)
    registry.log(run_id, settings.model_dump(), {f"validation_{k}": v for k, v in result.metrics.items()})
    curve = [record.validation_ne for record in result.history]
    registry.log_curve(run_id, "epoch_validation_ne", curve)
    log_plots(context, [run_id], learning_curve(curve))


def trained_settings(context: RunContext, space: SpaceRecord) -> FmConfig:
    """The settings that the FM of ``space`` was trained with, as its run recorded them.

    Raises:
        StepError: this version does not know one of them.
    """
    with TemporaryDirectory(dir=context.scratch) as folder:
        fetched = context.registry.fetch_run_files(space.run_id, f"{FM_ARTIFACTS}/{SETTINGS_FILE}", Path(folder))
        text = fetched.read_text(encoding="utf-8")
    try:
        return FmConfig.model_validate_json(text)
    except ValidationError as error:
        raise StepError(
            f"run {space.run_id} of space {space.space_id}: {FM_ARTIFACTS}/{SETTINGS_FILE} holds no settings of an FM "
            f"that this version can train: {error}; train an FM with it: `loopfm train-fm {context.origin} ...`"
        ) from error
