"""Recipes: named sets of VM and history settings. ``vm.recipe`` names one; settings given beside it replace its own.

A recipe leaves the FM and its codec alone: another recipe must not open another space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from feature_store.config import HistoryConfig

RecipeName = Literal["minimal", "recommended", "everything"]

Keys = Mapping[str, list[str]]
Settings = dict[str, Any]


def with_recipe(raw: Any) -> Any:
    """A project's settings, as YAML gives them, with the recipe that ``vm.recipe`` names filled in.

    What has no known recipe, or not the form of a project, is returned as it is: validation names what is wrong.
    """
    vm = raw.get("vm") if isinstance(raw, dict) else None
    if not isinstance(vm, dict) or vm.get("recipe") not in get_args(RecipeName):
        return raw
    keys = _keys(raw)
    return raw if keys is None else {**raw, "vm": overlaid(recipe_settings(vm["recipe"], keys), vm)}


def recipe_settings(name: RecipeName, keys: Keys) -> Settings:
    """Settings of block ``vm`` that a recipe stands for.

    Args:
        name: which recipe.
        keys: a project's history keys, each with the columns it is made of.
    """
    return _RECIPES[name](keys)


def overlaid(under: Mapping[str, Any], over: Mapping[str, Any]) -> Settings:
    """``over`` on top of ``under``, setting by setting; lists are replaced, and alternatives that have a ``kind``."""
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(below, Mapping) and "kind" not in value
        merged[name] = overlaid(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _minimal(keys: Keys) -> Settings:
    """One mean over one history: the items' own, else the first declared key's."""
    key = next((name for name in keys if _is_item(keys[name])), next(iter(keys)))
    return {
        "loopfm_readers": [{"key": key, "kinds": ["mean"]}],
        "raw_readers": [{"key": key, "tokens": "raw", "kinds": ["mean"]}],
        "scheduled_arm": "loopfm",
    }


def _recommended(keys: Keys) -> Settings:
    """Mean and attention over every key, the newest token of items too; calibrated, distillation where it helps."""
    return {
        "base": {"calibrate": True},
        "loopfm_readers": [{"key": name, "kinds": _kinds(columns)} for name, columns in keys.items()],
        "raw_readers": [{"key": name, "tokens": "raw", "kinds": ["mean", "attention"]} for name in keys],
        "kd_weights": [0, 0.3],
        "scheduled_arm": "loopfm_kd",
    }


def _everything(keys: Keys) -> Settings:
    """Every kind of reader over FM and raw tokens, keys alone and together, with all of ExFM's distillation."""
    norm = {"kind": "norm"}
    kinds = ["mean", "newest", "decayed", "attention"]
    first, *others = keys
    joined = [{"key": first, "with_keys": others, "kinds": ["attention"], "boundary": norm}] if others else []
    return {
        "base": {"calibrate": True, "distillation": {"kind": "adapter"}},
        "loopfm_readers": [*({"key": name, "kinds": kinds, "boundary": norm} for name in keys), *joined],
        "raw_readers": [{"key": name, "tokens": "raw", "kinds": kinds, "boundary": norm} for name in keys],
        "kd_weights": [0, 0.1, 0.3],
        "scheduled_arm": "raw_loopfm_kd",
    }


_RECIPES: dict[RecipeName, Callable[[Keys], Settings]] = {
    "minimal": _minimal,
    "recommended": _recommended,
    "everything": _everything,
}


def _kinds(columns: list[str]) -> list[str]:
    return ["mean", "attention", "newest"] if _is_item(columns) else ["mean", "attention"]


def _is_item(columns: list[str]) -> bool:
    return columns == ["item"]


def _keys(raw: Any) -> Keys | None:
    """A project's history keys before validation; None where they have not the form of keys."""
    dataset = raw.get("dataset")
    histories = dataset.get("histories", {}) if isinstance(dataset, dict) else None
    keys = histories.get("keys", HistoryConfig().keys) if isinstance(histories, dict) else None
    return keys if isinstance(keys, dict) and keys else None
