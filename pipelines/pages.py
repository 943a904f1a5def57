"""HTML pages that load nothing from elsewhere: how templates are read and files written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """A template of ``pipelines/templates`` as one HTML document; a name that was not given is an error."""
    environment = Environment(
        loader=PackageLoader("pipelines"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(template).render(**values)


def write(page: str, path: Path) -> Path:
    """Write a page to ``path``, its folder made where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
