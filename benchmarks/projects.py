"""Projects that benchmarks run: a YAML file with a few settings changed, in a workspace of its own that is removed."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from benchmarks.harness import BenchmarkError, Report
from feature_store.config import Strict
from pipelines.config import HOME_SETTING, TRACKING_SETTING, ProjectConfig, parse_config, written_settings
from pipelines.context import RunContext

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache"
PROJECT_FILE = "project.yaml"


class ProjectSettings(Strict):
    """``base``: a project's YAML file in the repository. ``changes``: dotted path -> value (null: removed)."""

    base: str
    changes: dict[str, Any] = Field(default={})

    def load(self, more: Mapping[str, Any] | None = None) -> ProjectConfig:
        """The changed project, validated; ``more`` changes come last."""
        raw = yaml.safe_load((REPOSITORY / self.base).read_text())
        for path, value in {**self.changes, **(more or {})}.items():
            raw = changed(raw, path.split("."), value)
        return parse_config(raw, self.base)


def changed(raw: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """A copy of ``raw`` with one nested value set, or removed where ``value`` is None."""
    copied = dict(raw)
    name, rest = path[0], path[1:]
    if rest:
        inner = copied.get(name, {})
        if not isinstance(inner, dict):
            raise BenchmarkError(f"changes: {name} holds {inner!r}, so nothing below it can be set")
        copied[name] = changed(inner, rest, value)
    elif value is None:
        copied.pop(name, None)
    else:
        copied[name] = copy.deepcopy(value)
    return copied


@contextmanager
def workspace(config: ProjectConfig, report: Report) -> Iterator[RunContext]:
    """Context of a project in a fresh folder below .cache; its Spark session and folder end with the block.

    The folder also holds the project as YAML (``context.origin``), so that ``loopfm`` commands can run on it.
    """
    CACHE.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{report.name}-", dir=CACHE))
    os.environ.pop(TRACKING_SETTING, None)
    context = RunContext(config, str(folder / PROJECT_FILE), root=str(folder), progress=report.say, run_id="benchmark")
    save_project(context)
    try:
        yield context
    finally:
        stop_spark(context)
        shutil.rmtree(folder, ignore_errors=True)


def save_project(context: RunContext) -> None:
    """Write the context's present settings to its YAML file."""
    settings = written_settings(context.config)
    Path(context.origin).write_text(yaml.safe_dump(settings, sort_keys=False))


def stop_spark(context: RunContext) -> None:
    """End the context's Spark session, where it has one; the next use starts a cold one."""
    spark = context.__dict__.pop("spark", None)
    if spark is not None:
        spark.stop()


def command_environment(context: RunContext) -> dict[str, str]:
    """Environment of a ``loopfm`` command on the context's workspace."""
    return {**os.environ, HOME_SETTING: context.root}
