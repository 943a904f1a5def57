"""Whether the source holds a partition, and whether its features are written: what scheduled runs wait for."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from feature_store.object_store import s3_uri
from pipelines.config import DATA_ROOT_SETTING, DEFAULT_DATA_ROOT, ProjectConfig
from pipelines.orchestration.partition_key import instant_ms


def source_ready(config: ProjectConfig, part: str, now: datetime | None = None) -> str | None:
    """None once the source holds all of ``part``; until then, what is waited for."""
    end = config.dataset.clock.end(part)
    if instant_ms(now or datetime.now(UTC)) < end:
        return f"partition {part} closes at {datetime.fromtimestamp(end / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    marker = config.schedule.ready
    if marker is None:
        return None
    root = os.environ.get(DATA_ROOT_SETTING, DEFAULT_DATA_ROOT)  # a URI too: as a Path it would lose a slash
    path = marker.replace("${" + DATA_ROOT_SETTING + "}", root).replace("{part}", part)
    return None if _exists(path) else f"{path}, which tells that the source holds {part}, is not there yet"


def features_ready(conf: str, vertical: str, part: str) -> str | None:
    """None once the features that VMs of ``vertical`` read are written up to ``part``; else what is missing.

    Raises:
        StepError: they never will be: ``part`` lies before what the FM of their space may write.
    """
    from pipelines.context import RunContext
    from pipelines.orchestration.windows import require_own, vm_space

    context = RunContext.load(conf)
    space = vm_space(context, vertical)
    require_own(context, vertical, space, part)
    entry = context.store.ledger.coverage("features", {"space_id": space.space_id}).get(part)
    state = "missing" if entry is None else entry.state
    return None if state == "done" else f"features of space {space.space_id} {part}: {state}"


def _exists(path: str) -> bool:
    if "://" not in path:
        return Path(path).exists()
    from pyarrow import fs

    system, inner = fs.FileSystem.from_uri(s3_uri(path))
    return bool(system.get_file_info(inner).type != fs.FileType.NotFound)
