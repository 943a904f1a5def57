"""What a VM of this project reads, and feeds over pinned versions of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from feature_store.commits import Pin
from feature_store.config import RAW_SPACE
from feature_store.spaces import SpaceRecord
from models.alignment import Alignment
from models.config import VmConfig
from models.feed import FeatureFeed
from models.feed_files import DataFile, FeedFiles
from models.vm_data import VmInputs, history_keys
from pipelines.context import RunContext
from pipelines.specs import vm_specs


@dataclass(frozen=True)
class PinnedRows:
    """Pinned versions of the tables that VMs of one space read, over a range of partitions.

    ``versions`` maps ``features``, ``histories`` and ``raw_histories`` to Delta versions.
    """

    space: SpaceRecord
    versions: Mapping[str, int]


def vm_inputs(context: RunContext, vertical: str, space: SpaceRecord) -> VmInputs:
    """What the VM of ``vertical`` may read in ``space``."""
    dataset = context.dataset
    counters = [
        spec.name for spec in vm_specs(dataset, vertical, counters=True)[len(vm_specs(dataset, vertical, False)) :]
    ]
    return VmInputs(
        vertical=vertical,
        heads=list(space.heads),
        space_id=space.space_id,
        features=vm_specs(dataset, vertical, counters=False),
        counters=counters,
        entities=list(dataset.entities),
        code_dim=space.dim,
        code_bits=space.bits,  # type: ignore[arg-type]
    )


def vm_pins(context: RunContext, space: SpaceRecord, parts: list[str]) -> dict[str, Pin]:
    """Versions to read for ``parts``, as ``PinnedRows`` names them.

    Raises:
        MissingInputError: features or histories of a partition are missing.
    """
    scope = {"space_id": space.space_id}
    return {
        "features": context.pin("features", scope, parts),
        "histories": context.pin("histories", scope, parts),
        "raw_histories": context.pin("histories", {"space_id": RAW_SPACE}, parts),
    }


def pin_rows(context: RunContext, space: SpaceRecord, parts: list[str]) -> PinnedRows:
    """The rows of ``parts`` at the versions of ``vm_pins``; raises as it does."""
    return PinnedRows(space, vm_pins(context, space, parts))


def feed(
    context: RunContext,
    vertical: str,
    config: VmConfig,
    pinned: PinnedRows,
    parts: list[str],
    known_at: int | None,
    alignment: Alignment | None = None,
) -> FeatureFeed:
    """A feed of ``parts`` at the pinned versions; rows whose label is not known at ``known_at`` are left out.

    With ``alignment`` the pinned rows are of its source, and the feed gives vectors of its target.
    """
    store, space_id = context.store, pinned.space.space_id
    features = store.files("features", pinned.versions["features"], {"space_id": space_id}, parts)
    keys = {key for reader in config.readers for key in history_keys(reader)}
    fm = _history_files(context, pinned.versions["histories"], space_id, parts) if keys else []
    raw = _history_files(context, pinned.versions["raw_histories"], RAW_SPACE, parts) if keys else []
    files = FeedFiles(
        features=[file for file in features if file.partition["vertical"] == vertical],
        histories={name: _of_key(fm, name) for kind, name in keys if kind == "fm"},
        raw_histories={name: _of_key(raw, name) for kind, name in keys if kind == "raw"},
    )
    inputs = vm_inputs(context, vertical, pinned.space)
    if alignment is not None:
        to = alignment.target
        inputs = inputs.model_copy(update={"space_id": to.space_id, "code_dim": to.dim, "code_bits": to.bits})
    return FeatureFeed(files, inputs, config, known_at=known_at, alignment=alignment)


def _history_files(context: RunContext, version: int, space_id: str, parts: list[str]) -> list[DataFile]:
    return list(context.store.files("histories", version, {"space_id": space_id}, parts))


def _of_key(files: list[DataFile], key: str) -> list[DataFile]:
    return [file for file in files if file.partition["key"] == key]
