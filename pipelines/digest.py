"""Digests of declared settings: what a step's output depends on, as short text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import models
from models.own_code import code_digest


def digest(*values: Any) -> str:
    """16 hexadecimal digits over settings, in canonical JSON: equal settings give equal text on every machine."""
    text = json.dumps([_plain(value) for value in values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def models_code() -> str:
    """16 hexadecimal digits over the source of package ``models``: equal settings train equally only by equal code."""
    return folder_code(Path(models.__path__[0]))


def training_code(own_parts: Sequence[str]) -> str:
    """What a training knows its code by: package ``models``, and a team's own classes where it uses any.

    Args:
        own_parts: their names, as settings have them.

    Raises:
        ModelConfigError: one cannot be imported.
    """
    own = [code_digest(name) for name in own_parts]
    return digest(models_code(), *own) if own else models_code()


def folder_code(folder: Path) -> str:
    """16 hexadecimal digits over the Python files below ``folder``: their paths and contents."""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.py"))
    return digest(*((name, hashlib.sha256((folder / name).read_bytes()).hexdigest()) for name in files))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
