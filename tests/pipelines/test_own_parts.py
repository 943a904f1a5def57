"""Classes of a team's own: refused before anything is written where they are not there, and known by their code."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from models.errors import ModelConfigError
from pipelines.config import ProjectConfig
from pipelines.context import RunContext
from pipelines.run import run_loop
from pipelines.run_plan import plan_run
from pipelines.train_vm import vm_training
from tests.pipelines.conftest import Loop

VERTICAL = "feed"
MISSING = {
    "fm.external.load": {
        "fm": {"external": {"load": "no_such:load", "checkpoint": "fm.npz", "trained_until": "2026-01-03T00:00"}}
    },
    "fm.codec.objective": {"fm": {"codec": {"objective": "no_such:Codec"}}},
    "vm.readers.kinds": {"vm": {"loopfm_readers": [{"key": "item", "kinds": ["no_such:Reader"]}]}},
    "vm.base.distillation.load": {"vm": {"base": {"distillation": {"kind": "own", "load": "no_such:Loss"}}}},
}
READER = """
from models.token_readers import MeanReader

class OwnReader(MeanReader):
    {body}
"""


def with_settings(context: RunContext, changes: dict[str, Any]) -> RunContext:
    raw = context.config.model_dump(mode="json", exclude_none=True)
    for block, settings in changes.items():
        for name, value in settings.items():
            raw[block][name] = raw[block][name] | value if isinstance(raw[block].get(name), dict) else value
    context.config = context.config.model_copy(
        update={name: getattr(ProjectConfig.model_validate(raw), name) for name in changes}
    )
    return context


@pytest.mark.parametrize(("setting", "changes"), MISSING.items(), ids=MISSING)
def test_a_part_that_is_not_there_is_refused_before_anything_is_written(
    loop: Loop, setting: str, changes: dict[str, Any]
) -> None:
    context, windows = with_settings(loop.again(), changes), loop.result.windows
    before = context.store.ledger.entries().num_rows
    for start in (lambda: plan_run(context, windows, ["loopfm"], 1), lambda: run_loop(context, windows, ["loopfm"], 1)):
        with pytest.raises(ModelConfigError, match=rf"{setting}: got 'no_such:.*allowed: package\.module:"):
            start()
    assert context.store.ledger.entries().num_rows == before


def test_a_part_of_an_arm_that_is_not_trained_is_not_asked_for(loop: Loop) -> None:
    context = with_settings(loop.again(), MISSING["vm.readers.kinds"])
    assert plan_run(context, loop.result.windows, ["base"], 1)


def test_a_training_knows_its_own_parts_by_their_code(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    changes = {"vm": {"loopfm_readers": [{"key": "item", "kinds": ["changing_reader:OwnReader"]}]}}
    context, windows = with_settings(loop.again(), changes), loop.result.windows
    known_by = []
    for body in ("pass", "pass", "pooled = 1"):
        (tmp_path / "changing_reader.py").write_text(READER.format(body=body))
        sys.modules.pop("changing_reader", None)
        importlib.invalidate_caches()
        asked = (windows.vm_train, windows.vm_validation)
        known_by.append(vm_training(context, VERTICAL, loop.result.spaces[0], asked, arm="loopfm").idempotency)
    assert known_by[0] == known_by[1] != known_by[2]
