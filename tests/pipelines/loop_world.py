"""A project over a generated world, small enough to run the whole loop in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipelines.config import ProjectConfig, parse_config
from pipelines.context import RunContext
from pipelines.windows import RunWindows, run_windows

CONF = Path(__file__).parents[2] / "conf/demo.yaml"
FIRST, LAST = "2026-01-01", "2026-01-07"
KNOWN = "2026-01-08"
"""Once it has closed, all labels of the last partition are known; it holds rows only in ``daily_settings``."""
NEXT = "2026-01-09"
"""The last day of ``daily_settings``."""

WORLD = {"start": FIRST, "days": 7, "rows_per_day": 3000, "users": 200, "items": 60}
WINDOWS = {
    "fm_train": "2d",
    "fm_validation": "1d",
    "vm_train": "2d",
    "vm_validation": "1d",
    "test": "1d",
    "label_wait": "1d",
}


def raw_settings(**dataset: Any) -> dict[str, Any]:
    """conf/demo.yaml with a smaller world; ``dataset`` replaces fields of the data contract."""
    raw: dict[str, Any] = yaml.safe_load(CONF.read_text())
    raw["dataset"]["source"] = {"world": dict(WORLD)}
    raw["dataset"].update(dataset)
    raw["windows"] = dict(WINDOWS)
    raw["range"] = {"first": FIRST, "last": KNOWN}
    raw["gate"] = {"min_positives": 50, "calibration_low": 0.5, "calibration_high": 2.0}
    raw["fm"]["train"]["epochs"] = 1
    raw["vm"]["base"]["train"]["epochs"] = 1
    return raw


def daily_settings(**dataset: Any) -> dict[str, Any]:
    """``raw_settings`` of a world that goes on to ``NEXT``: what the demo's Dags train on ends a day before."""
    raw = raw_settings(**dataset)
    raw["dataset"]["source"]["world"]["days"] = 9
    return raw


def settings(**dataset: Any) -> ProjectConfig:
    """The settings, validated."""
    return parse_config(raw_settings(**dataset), "test.yaml")


def context(root: Path, **dataset: Any) -> RunContext:
    """A context below ``root`` that keeps its progress lines to itself."""
    return RunContext(settings(**dataset), "test.yaml", root=str(root), progress=lambda line: None)


def windows(of: RunContext) -> RunWindows:
    """The windows of the whole world."""
    return run_windows(of.config, FIRST, KNOWN)
