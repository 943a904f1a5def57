"""What each step writes for fixed inputs: output that changes without a raised STEP_VERSION would stale nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.plan import Target, source_targets, space_targets
from tests.pipelines.conftest import Loop

GOLDEN = Path(__file__).with_name("golden.json")
# Weights of a trained FM differ in their last bits from one type of machine to another, and so do its outputs and name.
OF_THE_FM = {"z", "logits", "teacher_logit", "space_id"}


def rows_digest(rows: pa.Table) -> str:
    """Digest of the rows whatever their order."""
    names = sorted(set(rows.schema.names) - OF_THE_FM)
    columns = [rows[name].to_pylist() for name in names]
    lines = sorted(repr(values) for values in zip(*columns, strict=True))
    return hashlib.sha256("\n".join([repr(names), *lines]).encode()).hexdigest()[:16]


def written(loop: Loop, target: Target, part: str) -> dict[str, Any]:
    """Version, definition and output of ``target`` for one partition."""
    store, table = loop.context.store, target.step.table
    version = loop.context.pin(table, target.scope, [part])
    info = target.step.info(loop.context)
    output = rows_digest(store.arrow(table, version, target.scope, [part]))
    return {"step_version": info.version, "definition": info.definition, "output": output}


def all_targets(loop: Loop) -> dict[str, Target]:
    own = {f"{t.step.table} of the space": t for t in space_targets(loop.context, loop.result.spaces[0])}
    return {t.step.table: t for t in source_targets(loop.context)} | own


def test_output_changes_only_with_the_step_version(loop: Loop) -> None:
    golden = json.loads(GOLDEN.read_text())
    part = loop.result.windows.vm_train[0]
    found = {name: written(loop, target, part) for name, target in all_targets(loop).items()}
    changed = [name for name, entry in found.items() if entry != golden.get(name)]
    assert not changed, (
        f"{changed}: other rows than tests/pipelines/golden.json holds. Where the step's code changed its output, raise"
        f" its STEP_VERSION; then write this there:\n{json.dumps(found, indent=2)}"
    )


@pytest.mark.parametrize("table", ["segments", "features"])
def test_the_digest_sees_one_changed_value(loop: Loop, table: str) -> None:
    part = loop.result.windows.vm_train[0]
    target = {t.step.table: t for t in space_targets(loop.context, loop.result.spaces[0])}[table]
    rows = loop.context.store.arrow(table, loop.context.pin(table, target.scope, [part]), target.scope, [part])
    place = rows.schema.get_field_index("part")
    other = rows.set_column(place, "part", pa.array(["elsewhere", *rows["part"].to_pylist()[1:]]))
    assert rows_digest(rows) != rows_digest(other)
    assert rows_digest(rows) == rows_digest(rows.take(pa.array(range(len(rows) - 1, -1, -1))))
