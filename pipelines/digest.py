"""Digests of declared settings: what a step's output depends on, as short text."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import models


def digest(*values: Any) -> str:
    """16 hexadecimal digits over settings, in canonical JSON: equal settings give equal text on every machine."""
    text = json.dumps([_plain(value) for value in values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def models_code() -> str:
    """16 hexadecimal digits over the source of package ``models``: equal settings train equally only by equal code."""
    return folder_code(Path(models.__path__[0]))


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
