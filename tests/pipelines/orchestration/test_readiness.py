"""What a scheduled run waits for."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.config import ProjectConfig, parse_config
from pipelines.orchestration.readiness import source_ready
from tests.pipelines import loop_world

PART = "2026-01-09"
OPEN, CLOSED = datetime(2026, 1, 9, 23, 59, tzinfo=UTC), datetime(2026, 1, 10, tzinfo=UTC)


def project(ready: str | None) -> ProjectConfig:
    return parse_config({**loop_world.raw_settings(), "schedule": {"ready": ready}}, "test.yaml")


def test_a_partition_must_have_closed() -> None:
    assert source_ready(project(None), PART, OPEN) == "partition 2026-01-09 closes at 2026-01-10 00:00 UTC"
    assert source_ready(project(None), PART, CLOSED) is None


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_marker_file_tells_that_the_source_holds_it(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPFM_DATA", f"{scheme}{tmp_path}" if not scheme else str(tmp_path))
    config = project(f"{scheme}" + "${LOOPFM_DATA}/{part}/_SUCCESS")
    assert str(source_ready(config, PART, CLOSED)).endswith("is not there yet")
    (tmp_path / PART).mkdir()
    (tmp_path / PART / "_SUCCESS").touch()
    assert source_ready(config, PART, CLOSED) is None
