"""Where an FM's file lies: in MLflow, with a checked local copy for the processes that load it."""

from __future__ import annotations

import shutil
from pathlib import Path

from feature_store.spaces import SpaceRecord
from models.checkpoint import digest_file
from pipelines.context import RunContext

FM_ARTIFACTS = "fm"
FM_FILE = "model.pt"


def fm_files(context: RunContext, space: SpaceRecord) -> Path:
    """Local copy of the FM file of ``space``, fetched from its run once.

    Raises:
        ArtifactError: the run's file is not the one that the space was opened with.
    """
    local = context.scratch / "fm" / space.model_digest[:16] / FM_FILE
    if local.is_file() and digest_file(local) == space.model_digest:
        return local
    fetched = context.registry.fetch_run_files(space.run_id, FM_ARTIFACTS, context.scratch / "fm" / space.space_id)
    local.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(fetched / FM_FILE, local)
    return local
