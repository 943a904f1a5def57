"""Errors of settings as lines that name file and field, what was given and what is allowed."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from types import UnionType
from typing import Any

from pydantic import BaseModel


def error_line(model: type[BaseModel], origin: str, problem: Any) -> str:
    """One line of a validation problem of ``model``.

    Args:
        model: the settings that were validated.
        origin: the file that they came from.
        problem: one entry of ``ValidationError.errors()``.
    """
    loc = problem["loc"]
    field = ".".join(str(part) for part in loc) or "(top)"
    if problem["type"] == "extra_forbidden":
        return f"{origin}: {field}: no such setting; {_allowed(str(loc[-1]), _fields_at(model, loc[:-1]))}"
    if problem["type"] == "union_tag_not_found":
        kinds = sorted(_tags(_annotation_at(model, loc)))
        return f"{origin}: {field}: got no kind; allowed: kind: one of {kinds}"
    message = problem["msg"].removeprefix("Value error, ")
    got = problem.get("input")
    shown = "" if isinstance(got, dict | list) or problem["type"] == "missing" else f"; got {got!r}"
    return f"{origin}: {field}: {message}{shown}"


def _allowed(given: str, names: list[str]) -> str:
    near = difflib.get_close_matches(given, names, n=1)
    return f"did you mean {near[0]}? allowed: {names}" if near else f"allowed: {names}"


def _fields_at(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    return sorted({name for found in _models(_annotation_at(model, loc)) for name in found.model_fields})


def _annotation_at(model: type[BaseModel], loc: Sequence[Any]) -> Any:
    """The type that stands at a place of the settings; a step that leads nowhere gives Any."""
    annotation: Any = model
    for step in loc:
        annotation = _step(annotation, step)
    return annotation


def _step(annotation: Any, step: Any) -> Any:
    for found in _models(annotation):
        if step in _tags(found):
            return found
        if step in found.model_fields:
            return found.model_fields[step].annotation
    for member in _members(annotation):
        if typing.get_origin(member) in (list, dict):
            return typing.get_args(member)[-1]
    return Any


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, else the type itself; ``Annotated`` is taken off."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return [member for one in typing.get_args(annotation) for member in _members(one)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def _tags(annotation: Any) -> set[str]:
    """Values of ``kind`` that tell the alternatives apart."""
    kinds: list[Any] = [
        found.model_fields["kind"].annotation for found in _models(annotation) if "kind" in found.model_fields
    ]
    return {str(tag) for kind in kinds for tag in typing.get_args(kind)}
