"""Write docs/settings.md: every field of a YAML file, taken from the models that validate it."""

from __future__ import annotations

import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from feature_store.clocks import DAY_MS, HOUR_MS, MINUTE_MS
from feature_store.config import Duration, Name, Window
from models.config import OwnClass
from pipelines.config import ProjectConfig

TARGET = Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """\
# Settings

Every field of a project's YAML file. This page is made from the models that validate the file
(`.venv/bin/python scripts/reference.py`); an unknown field, a wrong type or an impossible combination is an error that
names file and field. A *duration* is a whole number and a unit: `30m`, `6h`, `1d`. *SQL* is a Spark SQL expression over
the columns of the source. A *name* is lower case: letters, digits and `_`.
"""
WORDS: dict[Any, str] = {
    Duration: "duration",
    Name: "name",
    Window: "duration or `ever`",
    OwnClass: "`package.module:Class`",
}
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true / false", type(None): "nothing"}


def render() -> str:
    """The page."""
    sections = [HEAD]
    waiting: list[type[BaseModel]] = [ProjectConfig]
    seen = set(waiting)
    while waiting:
        model = waiting.pop(0)
        sections.append(_section(model))
        for field in model.model_fields.values():
            for found in _models(field.annotation):
                if found not in seen:
                    seen.add(found)
                    waiting.append(found)
    return "\n".join(sections)


def _section(model: type[BaseModel]) -> str:
    text = " ".join(re.sub(r" \(method [\d.]+\)", "", (model.__doc__ or "").replace("``", "`")).split())
    rows = [
        f"| `{name}` | {_kind(field)} | {_default(field)} | {_meaning(field)} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(
        [f"## {model.__name__}", "", text, "", "| field | kind | default | meaning |", "|---|---|---|---|", *rows, ""]
    )


def _kind(field: FieldInfo) -> str:
    for word, text in WORDS.items():
        if typing.get_args(word)[1:] and _same_rule(field, word):
            return text
    return _words(field.annotation)


def _same_rule(field: FieldInfo, word: Any) -> bool:
    """Whether the field carries the rules of a named type, such as Duration."""
    return typing.get_args(word)[1] in field.metadata


def _words(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in WORDS or kind in PLAIN:
        return WORDS.get(kind) or PLAIN[kind]
    if origin is typing.Annotated:
        return _words(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(a) for a in arguments if a is not type(None))
    if origin is list:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"{_words(arguments[0])} -> {_words(arguments[1])}"
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    if _kind(field) == "duration":
        return f"`{_duration(value)}`"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str | int | float):
        return f"`{value}`"
    return f"`{_flow(value)}`" if value not in ({}, []) else "empty"


def _flow(value: Any) -> str:
    """A default as YAML in one line; of models only what differs from their own defaults."""
    if isinstance(value, BaseModel):
        return _flow(
            {n: v for n, v in value.model_dump().items() if v != type(value).model_fields[n].default or n == "kind"}
        )
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return str(value)


def _duration(value: int) -> str:
    for unit, length in (("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS)):
        if value and value % length == 0:
            return f"{value // length}{unit}"
    return f"{value}ms" if value else "0m"


def _meaning(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|")


def _models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for argument in typing.get_args(kind) for model in _models(argument)]


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if TARGET.read_text(encoding="utf-8") == render() else f"{TARGET} is stale: run {sys.argv[0]}")
    TARGET.write_text(render(), encoding="utf-8")
