"""The projects of one folder of YAML files, opened once each and opened again when their file changes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import home, load_config
from pipelines.context import RunContext
from pipelines.errors import ConfigError


@dataclass(frozen=True)
class ProjectFile:
    """One YAML file; ``error`` says why it cannot be read, else None."""

    name: str
    path: str
    error: str | None


class Projects:
    """Contexts of a folder's projects, by the file's name without its suffix. May be shared by threads.

    A context keeps its ledger's index, so that a second question reads only what was appended since the first.

    Args:
        folder: of the YAML files.
        root: where their tables lie; LOOPFM_HOME when absent.
    """

    def __init__(self, folder: Path, root: str | None = None) -> None:
        self._folder = folder
        self._root = root
        self._lock = threading.Lock()
        self._open: dict[str, tuple[int, RunContext]] = {}

    def files(self) -> list[ProjectFile]:
        """Every project of the folder, the broken ones with their error."""
        return [self._file(path) for path in self._paths()]

    def context(self, name: str) -> RunContext:
        """The project ``name``.

        Raises:
            ConfigError: there is no such file, or it is wrong; the message names the file and the field, or lists the
                projects that there are.
        """
        found = {path.stem: path for path in self._paths()}
        if name not in found:
            raise ConfigError(f"no project {name!r} in {self._folder}; there are {sorted(found)}")
        path = found[name]
        changed_at = path.stat().st_mtime_ns
        with self._lock:
            if name not in self._open or self._open[name][0] != changed_at:
                root = home() if self._root is None else self._root
                self._open[name] = changed_at, RunContext(load_config(path), shown_path(path), root=root)
            return self._open[name][1]

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("*.yaml"))

    def _file(self, path: Path) -> ProjectFile:
        try:
            self.context(path.stem)
        except ConfigError as error:
            return ProjectFile(path.stem, shown_path(path), str(error))
        return ProjectFile(path.stem, shown_path(path), None)


def shown_path(path: Path) -> str:
    """A path as a person types it: relative to the working folder where it lies below it."""
    full, here = path.resolve(), Path.cwd().resolve()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(full)
