"""Lineage both ways: from a VM to what it was made of, and from a partition to the models that it fed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from feature_store.histories import segment_span
from feature_store.ledger import Scope
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.inspection.registered import ModelBook, ModelVersion, table_scope


def lineage(context: RunContext, vertical: str, version: str) -> dict[str, Any]:
    """What one version of a VM was made of: Delta versions, space, FM, runs and commits, as plain data.

    Keys: ``vm`` and ``fm``: name, version, aliases, run_id, commit, seed, windows and ``tables``, each with the exact
    Delta version that was read and the partitions of its windows that were written again since; ``space``: its record.
    ``fm`` and ``space`` are None where the space is no longer registered.

    Raises:
        StepError: the vertical or version does not exist; the message lists those there are.
    """
    book = ModelBook(context)
    versions = {found.version: found for found in book.vm(vertical)}
    if version not in versions:
        raise StepError(f"{context.vm_name(vertical)}: no version {version!r}; there are {sorted(versions, key=int)}")
    vm = versions[version]
    space = next((s for s in context.spaces.all() if s.space_id == vm.tag("space")), None)
    fm = None if space is None else next((found for found in book.fm() if found.run_id == space.run_id), None)
    return {
        "vm": _model(context, vm, None) | {"arm": vm.tag("arm"), "config": vm.tag("config"), "gate": gate_of(vm)},
        "space": None if space is None else _space(context, space),
        "fm": None if fm is None or space is None else _model(context, fm, space.inputs_id),
    }


def fed(context: RunContext, part: str) -> list[dict[str, Any]]:
    """Registered models that ``part`` fed, the newest first, as plain data.

    ``role``: ``train`` or ``validation`` (its rows), ``history`` (its tokens may be read by rows of the windows), or
    ``fm`` for an FM whose windows hold it or are unknown while its cutoff lies later.
    """
    context.dataset.clock.start(part)
    book = ModelBook(context)
    models = [(vm, _vm_role(context, vm, part)) for name in context.dataset.heads for vm in book.vm(name)]
    spaces = {space.run_id: space for space in context.spaces.all()}
    models += [(fm, _fm_role(context, fm, spaces.get(fm.run_id), part)) for fm in book.fm()]
    found = [(model, role) for model, role in models if role is not None]
    found.sort(key=lambda pair: pair[0].created_at, reverse=True)
    return [
        {
            "model": model.name,
            "vertical": model.tag("vertical"),
            "version": model.version,
            "aliases": list(model.aliases),
            "run_id": model.run_id,
            "role": role,
            "space": model.tag("space"),
            "tables": model.table_versions,
        }
        for model, role in found
    ]


def gate_of(model: ModelVersion) -> dict[str, str] | None:
    """The gate's verdict and its reasons; None where the version never went through it."""
    verdict = model.tag("gate")
    return None if verdict is None else {"verdict": verdict, "reasons": model.tag("gate_reasons") or ""}


def _model(context: RunContext, model: ModelVersion, inputs_id: str | None) -> dict[str, Any]:
    windows = {name: model.window(name) for name in ("train", "validation")}
    own = [window for window in windows.values() if window is not None]
    return {
        "model": model.name,
        "version": model.version,
        "aliases": list(model.aliases),
        "run_id": model.run_id,
        "commit": model.tag("commit"),
        "seed": model.tag("seed"),
        "windows": windows,
        "tables": [
            _table(context, name, read, table_scope(name, model, inputs_id), own)
            for name, read in model.table_versions.items()
        ],
    }


def _table(
    context: RunContext, name: str, read: int, place: tuple[str, Scope], windows: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    table, scope = place
    entries = context.store.ledger.coverage(table, scope)
    own = {p: e for p, e in entries.items() if any(first <= p <= last for first, last in windows)}
    return {
        "name": name,
        "table": table,
        "scope": scope,
        "version": read,
        "partitions": len(own),
        "rows": sum(entry.rows for entry in own.values()),
        "rewritten": [part for part, entry in own.items() if (entry.version_written or 0) > read],
    }


def _space(context: RunContext, space: SpaceRecord) -> dict[str, Any]:
    return {
        "id": space.space_id,
        "state": space.state,
        "cutoff": context.dataset.clock.part_of(space.fm_train_cutoff),
        "fm_train_cutoff": space.fm_train_cutoff,
        "inputs_id": space.inputs_id,
        "captures": space.captures,
        "vector": f"{space.dim} x {space.bits} bit",
        "model_digest": space.model_digest,
        "run_id": space.run_id,
    }


def _vm_role(context: RunContext, vm: ModelVersion, part: str) -> str | None:
    train, validation = vm.window("train"), vm.window("validation")
    for name, window in (("train", train), ("validation", validation)):
        if window is not None and window[0] <= part <= window[1]:
            return name
    if train is None:
        return None
    first, last = segment_span(context.dataset, train[0], (validation or train)[1])
    return "history" if first <= part <= last else None


def _fm_role(context: RunContext, fm: ModelVersion, space: SpaceRecord | None, part: str) -> str | None:
    windows = [window for window in (fm.window("train"), fm.window("validation")) if window is not None]
    if windows:
        return "fm" if any(first <= part <= last for first, last in windows) else None
    return "fm" if space is not None and context.dataset.clock.start(part) < space.fm_train_cutoff else None
