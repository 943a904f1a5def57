"""What a scheduled run waits for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from pyarrow import fs

from feature_store.clocks import HOUR_MS
from feature_store.spaces import SpaceRecord
from pipelines.config import ProjectConfig, parse_config
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.orchestration.readiness import features_ready, source_ready
from tests.pipelines import loop_world

PART = "2026-01-09"
OPEN, CLOSED = datetime(2026, 1, 9, 23, 59, tzinfo=UTC), datetime(2026, 1, 10, tzinfo=UTC)


def project(ready: str | None) -> ProjectConfig:
    return parse_config({**loop_world.raw_settings(), "schedule": {"ready": ready}}, "test.yaml")


def test_a_partition_must_have_closed() -> None:
    assert source_ready(project(None), PART, OPEN) == "partition 2026-01-09 closes at 2026-01-10 00:00 UTC"
    assert source_ready(project(None), PART, CLOSED) is None


@pytest.mark.parametrize(("root", "scheme"), [("", ""), ("", "file://"), ("file://", "")])
def test_a_marker_file_tells_that_the_source_holds_it(
    root: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPFM_DATA", f"{root}{tmp_path}")
    config = project(f"{scheme}" + "${LOOPFM_DATA}/{part}/_SUCCESS")
    assert str(source_ready(config, PART, CLOSED)).endswith("is not there yet")
    (tmp_path / PART).mkdir()
    (tmp_path / PART / "_SUCCESS").touch()
    assert source_ready(config, PART, CLOSED) is None


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_a_marker_on_an_object_store_is_found_by_either_spelling(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def from_uri(uri: str) -> tuple[fs.FileSystem, str]:
        asked.append(uri)
        return fs.LocalFileSystem(), "/absent"

    monkeypatch.setattr(fs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    monkeypatch.setenv("LOOPFM_DATA", f"{scheme}://loopfm/data")
    assert str(source_ready(project("${LOOPFM_DATA}/{part}/_SUCCESS"), PART, CLOSED)).endswith("is not there yet")
    assert asked == [f"s3://loopfm/data/{PART}/_SUCCESS"]


def test_a_partition_that_its_space_never_holds_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPFM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    conf = tmp_path / "test.yaml"
    conf.write_text(yaml.safe_dump(loop_world.raw_settings()))
    context = RunContext.load(conf)
    start = context.dataset.clock.start(PART)
    space = SpaceRecord("fm-1", "in-1", start - HOUR_MS, 0, ["feed", "shop"], 16, 4, [], "", "", "")
    for cutoff in (start - HOUR_MS, start):
        context.spaces.add(replace(space, fm_train_cutoff=cutoff))
        assert features_ready(str(conf), "feed", PART) == f"features of space fm-1 {PART}: missing"
        with pytest.raises(StepError, match=r"no features of 2026-01-08: they begin after 2026-01-08, .* a later part"):
            features_ready(str(conf), "feed", "2026-01-08")
