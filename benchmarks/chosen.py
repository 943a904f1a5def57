"""Settings that were chosen on validation, as a committed file: what test figures may be printed of.

``python -m benchmarks.choose`` writes the file; the other benchmarks of experiments read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from benchmarks.harness import BenchmarkError
from feature_store.config import Name, Strict
from pipelines.config import Arm

Family = Literal["base", "counters", "raw", "control", "loopfm"]

FAMILIES: dict[Arm, Family] = {
    "base": "base",
    "kd": "base",
    "counters": "counters",
    "raw": "raw",
    "control": "control",
    "control_kd": "control",
    "loopfm": "loopfm",
    "loopfm_kd": "loopfm",
    "raw_loopfm": "loopfm",
    "raw_loopfm_kd": "loopfm",
}
"""Arms that share their settings: what distillation or raw tokens add is compared with all else equal."""


class Choice(Strict):
    """The candidate of the lowest validation NE, what it changes, and the validation NE of every candidate, by seed."""

    chosen: Name
    changes: dict[str, Any]
    validation_ne: dict[Name, list[float]] = Field(min_length=1)


class Chosen(Strict):
    """What was chosen for families of arms, and for the FM, whose best candidate belongs into the project itself.

    ``project``: the YAML file that candidates change; ``seeds``: of each candidate.
    """

    project: str
    seeds: int
    fm: Choice | None = None
    families: dict[Family, Choice]

    def changes(self, arm: Arm) -> Mapping[str, Any]:
        """What an arm changes of the project; nothing where its family was not chosen."""
        choice = self.families.get(FAMILIES[arm])
        return {} if choice is None else choice.changes


def read_chosen(path: Path) -> Chosen:
    """Read the file.

    Raises:
        BenchmarkError: it is not there.
    """
    if not path.is_file():
        raise BenchmarkError(f"chosen: no file {path}; python -m benchmarks.choose writes it")
    return Chosen.model_validate(yaml.safe_load(path.read_text()))


def write_chosen(path: Path, chosen: Chosen) -> None:
    """Write the file, numbers at five places."""
    raw = chosen.model_dump()
    for choice in [raw["fm"], *raw["families"].values()]:
        if choice is not None:
            choice["validation_ne"] = {
                name: [round(value, 5) for value in values] for name, values in choice["validation_ne"].items()
            }
    head = "# Written by python -m benchmarks.choose, from validation windows alone.\n"
    path.write_text(head + yaml.safe_dump(raw, sort_keys=False))
