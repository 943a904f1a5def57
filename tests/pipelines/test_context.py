"""Contexts of several projects in one process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.pipelines import loop_world


def test_a_project_leaves_its_tracking_server_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first, second = loop_world.context(tmp_path / "first"), loop_world.context(tmp_path / "second")
    assert first.registry.runs_with({}) == []
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert second.registry.tracking_uri == f"sqlite:///{tmp_path / 'second'}/mlflow.db"


def test_a_tracking_server_that_is_set_stays_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")
    assert loop_world.context(tmp_path / "first").registry.runs_with({}) == []
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/shared.db"
