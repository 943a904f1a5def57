"""docker-compose.yml as a container engine reads it: merged, with variables filled in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / "servers" / "example.env"

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


class MissingVariableError(Exception):
    """A required variable has no value."""


def variables() -> dict[str, tuple[str, str]]:
    """Variable -> how it is used (``?`` required, ``-`` has a default, empty: plain) and the text beside it."""
    found = _VARIABLE.finditer(FILE.read_text())
    return {match["name"]: (match["kind"] or "", match["text"] or "") for match in found}


def compose(values: dict[str, str] | None = None) -> dict[str, Any]:
    """The file, parsed; variables filled in from ``values`` unless it is None."""
    parsed = yaml.safe_load(FILE.read_text())
    return parsed if values is None else _filled(parsed, values)


def environment(service: str, values: dict[str, str]) -> dict[str, str]:
    """Environment that the service's process gets."""
    return {name: str(value) for name, value in compose(values)["services"][service]["environment"].items()}


def example_names() -> set[str]:
    """Variables of the example file."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    return {line.split("=")[0] for line in lines}


def _filled(node: Any, values: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    return _VARIABLE.sub(lambda match: _value(match, values), node) if isinstance(node, str) else node


def _value(match: re.Match[str], values: dict[str, str]) -> str:
    value = values.get(match["name"], "")
    if match["kind"] == "?" and not value:
        raise MissingVariableError(f"{match['name']}: {match['text']}")
    return value or (match["text"] or "" if match["kind"] == "-" else "")
