"""Delta's log as the store needs it: which commits are ours, what they wrote. Read as files, so without a JVM."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs

COMMIT_KEY = "loopfm"

_COMMIT_FILE = re.compile(r"^(\d{20})\.json$")


@dataclass(frozen=True)
class LogCommit:
    """One commit of a table's log.

    Args:
        version: Delta version.
        timestamp: epoch milliseconds of the commit.
        metadata: our own JSON in userMetadata; None for a commit that is not ours.
        rows: part -> rows added.
        files: part -> names and sizes of the files added.
        changes: whether the commit added or removed rows.
    """

    version: int
    timestamp: int
    metadata: dict[str, Any] | None
    rows: dict[str, int]
    files: dict[str, list[str]]
    changes: bool


class DeltaLog:
    """The log folder of one table."""

    def __init__(self, filesystem: pafs.FileSystem) -> None:
        self._filesystem = filesystem

    def versions(self) -> list[int]:
        """Versions whose commit file is still there, ascending; empty when there is no table."""
        selector = pafs.FileSelector("_delta_log", allow_not_found=True)
        names = (_COMMIT_FILE.match(info.base_name) for info in self._filesystem.get_file_info(selector))
        return sorted(int(name[1]) for name in names if name)

    def has(self, version: int) -> bool:
        """Whether the commit file of ``version`` exists."""
        return self._filesystem.get_file_info(_path(version)).type == pafs.FileType.File

    def read(self, version: int) -> LogCommit:
        """Parse one commit file."""
        with self._filesystem.open_input_stream(_path(version)) as stream:
            actions = [json.loads(line) for line in stream.read().decode().splitlines() if line.strip()]
        info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        adds = [action["add"] for action in actions if "add" in action]
        removes = [action["remove"] for action in actions if "remove" in action]
        rows, files = _by_part(adds)
        return LogCommit(
            version=version,
            timestamp=int(info.get("timestamp", 0)),
            metadata=_own(info.get("userMetadata")),
            rows=rows,
            files=files,
            changes=any(action.get("dataChange", True) for action in adds + removes),
        )


def _path(version: int) -> str:
    return f"_delta_log/{version:020d}.json"


def _own(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text else None
    except ValueError:
        return None
    return value if isinstance(value, dict) and COMMIT_KEY in value else None


def _by_part(adds: list[dict[str, Any]]) -> tuple[dict[str, int], dict[str, list[str]]]:
    rows: dict[str, int] = {}
    files: dict[str, list[str]] = {}
    for add in adds:
        part = add["partitionValues"].get("part") or ""
        rows[part] = rows.get(part, 0) + int(json.loads(add.get("stats") or "{}").get("numRecords", 0))
        files.setdefault(part, []).append(f"{unquote(add['path'])} {add['size']}")
    return rows, files
