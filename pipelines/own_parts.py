"""A check before anything expensive: the classes of a team's own that settings name are there."""

from __future__ import annotations

from collections.abc import Sequence

from models.codec import Codec
from models.distillation import Distiller
from models.external_fm import loader
from models.own_code import is_own, own_class
from models.token_readers import TokenReader
from pipelines.config import Arm, ProjectConfig


def require_own_parts(config: ProjectConfig, arms: Sequence[Arm]) -> None:
    """Raise ModelConfigError, which names the setting, where an own FM, codec, reader or loss cannot be imported.

    Args:
        config: the project.
        arms: that will be trained.
    """
    if config.fm.external is not None:
        loader(config.fm.external.load)
    for name in config.fm.codec.own_parts:
        own_class(name, Codec, "fm.codec.objective")
    for vm in (config.vm.arm(arm) for arm in arms):
        for name in (kind for reader in vm.readers for kind in reader.kinds if is_own(kind)):
            own_class(name, TokenReader, "vm.readers.kinds")
        if vm.distillation.kind == "own":
            own_class(vm.distillation.load, Distiller, "vm.base.distillation.load")
