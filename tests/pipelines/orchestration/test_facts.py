"""What a verb leaves for the scheduler that started it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.orchestration.facts import run_id, save_facts


def test_facts_are_json_without_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "facts.json"
    monkeypatch.setenv("LOOPFM_FACTS", str(target))
    save_facts({"metrics": {"ne": 0.9, "gauc": float("nan")}, "parts": ("a", float("inf")), "folder": tmp_path})
    assert json.loads(target.read_text()) == {
        "metrics": {"ne": 0.9, "gauc": None}, "parts": ["a", None], "folder": str(tmp_path),
    }  # fmt: skip


def test_nobody_asks_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPFM_FACTS", raising=False)
    monkeypatch.delenv("LOOPFM_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    save_facts({"rows": 1})
    save_facts(None)
    assert list(tmp_path.iterdir()) == []
    assert run_id() == "cli"
    monkeypatch.setenv("LOOPFM_RUN_ID", "demo_data/run/ingest")
    assert run_id() == "demo_data/run/ingest"
