"""Saved models: plain tensors and settings in one file, loaded weights-only and checked by digest."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from models.errors import ArtifactError

FORMAT = 1


def save_artifact(path: Path, kind: str, content: dict[str, Any]) -> str:
    """Write ``content`` (tensors, texts, numbers, lists and dicts of them) to ``path`` at once; returns its digest.

    The same content gives the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, "kind": kind, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return digest_file(path)


def load_artifact(path: str | Path, kind: str, digest: str | None = None) -> dict[str, Any]:
    """Read an artifact; its tensors are mapped from the file, so that processes of one machine share them.

    Raises:
        ArtifactError: the file is missing, unreadable, of another kind or format, or its digest is not ``digest``.
    """
    content = _read(path, digest)
    if content["kind"] != kind:
        raise ArtifactError(f"{path}: got kind {content['kind']!r}; needed: kind {kind!r}, format {FORMAT}")
    return content


def artifact_kind(path: str | Path) -> str:
    """What an artifact is.

    Raises:
        ArtifactError: the file is missing, unreadable or of another format.
    """
    return str(_read(path, None)["kind"])


def _read(path: str | Path, digest: str | None) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ArtifactError(f"{path}: no such model file; train the model again or restore the file")
    if digest is not None and (found := digest_file(path)) != digest:
        raise ArtifactError(f"{path}: digest is {found}, {digest} was recorded; restore the file that was registered")
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:
        raise ArtifactError(f"{path}: not a model file that can be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or "kind" not in content:
        got = {name: content.get(name) for name in ("kind", "format")} if isinstance(content, dict) else type(content)
        raise ArtifactError(f"{path}: got {got}; needed: a kind, format {FORMAT}")
    return content


def digest_file(path: str | Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
