"""A team's own parts: one class, or one function, that settings name as ``package.module:Name``.

Their package must be importable wherever a model is trained or read.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from pathlib import Path
from typing import Any, TypeVar

from models.errors import ModelConfigError

SEPARATOR = ":"

Part = TypeVar("Part")


def is_own(name: str) -> bool:
    """Whether a name has the form ``package.module:Name``."""
    module, _, own = name.partition(SEPARATOR)
    return all(word.isidentifier() for word in [*module.split("."), own])


def imported(name: str, setting: str, allowed: str) -> Any:
    """What ``package.module:Name`` names.

    Args:
        name: as the settings have it.
        setting: for the message.
        allowed: what may stand there, for the message.

    Raises:
        ModelConfigError: there is no such module, or no such name in it.
    """
    module, _, own = name.partition(SEPARATOR)
    try:
        return getattr(importlib.import_module(module), own)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelConfigError(f"{setting}: got {name!r}: {error}; allowed: {allowed}") from error


def own_class(name: str, base: type[Part], setting: str) -> type[Part]:
    """The class that ``package.module:Class`` names, a subclass of ``base``.

    Raises:
        ModelConfigError: it cannot be imported, or is none.
    """
    allowed = f"package.module:Class, importable here, a subclass of {base.__module__}.{base.__qualname__}"
    found = imported(name, setting, allowed)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ModelConfigError(f"{setting}: got {name!r}, which is {found!r}; allowed: {allowed}")
    return found


def code_digest(name: str) -> str:
    """16 hexadecimal digits over the source file of the class that ``name`` names: other code trains another model.

    Raises:
        ModelConfigError: it cannot be imported.
    """
    found = imported(name, "own class", "package.module:Class, importable here")
    return hashlib.sha256(Path(inspect.getfile(found)).read_bytes()).hexdigest()[:16]
