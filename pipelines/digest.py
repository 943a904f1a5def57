"""Digests of declared settings: what a step's output depends on, as short text."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def digest(*values: Any) -> str:
    """16 hexadecimal digits over settings, in canonical JSON: equal settings give equal text on every machine."""
    text = json.dumps([_plain(value) for value in values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
