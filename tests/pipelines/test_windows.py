"""Windows of a run: in order, without gaps, never shorter than declared."""

from __future__ import annotations

import pytest

from pipelines.config import parse_config
from pipelines.errors import ConfigError
from pipelines.windows import run_windows
from tests.pipelines import loop_world


def test_what_is_left_over_warms_up() -> None:
    config = loop_world.settings()
    windows = run_windows(config, "2026-01-01", "2026-01-09")
    assert windows.parts == config.dataset.clock.between("2026-01-01", "2026-01-09")
    assert windows.fm_train == ["2026-01-01", "2026-01-02"]
    assert windows.warm_up == ["2026-01-04"]
    assert (windows.test, windows.label_wait) == (["2026-01-08"], ["2026-01-09"])
    assert windows.outputs == windows.warm_up + windows.vm


def test_days_stand_for_all_their_partitions() -> None:
    config = loop_world.settings(grain="6h")
    windows = run_windows(config, "2026-01-01", "2026-01-08")
    assert len(windows.parts) == 32
    assert windows.fm_train[-1] == "2026-01-02T18"


def test_a_range_too_short_says_what_the_windows_need() -> None:
    with pytest.raises(ConfigError, match=r"holds 3 partitions, the windows need 8 \(192 h\)"):
        run_windows(loop_world.settings(), "2026-01-01", "2026-01-03")


def test_a_window_that_is_no_multiple_of_the_grain_is_named() -> None:
    raw = loop_world.raw_settings()
    raw["windows"] = {**raw["windows"], "test": "30h"}
    with pytest.raises(ConfigError, match=r"windows\.test: got 108000000 ms; allowed: a multiple of the grain"):
        run_windows(parse_config(raw, "x.yaml"), "2026-01-01", "2026-01-09")
