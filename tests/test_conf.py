"""Every file in conf/ loads, its windows fill its range, and the ones on real data describe that data."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_store.clocks import DAY_MS, HOUR_MS
from feature_store.ingest import ingest_frames, source_parts
from feature_store.profile import profile
from feature_store.sources.paths import data_root
from feature_store.world.rows import MAX_LATE_HOURS
from pipelines.config import load_config

CONF = sorted(Path("conf").glob("*.yaml"))


def real(folder: str) -> None:
    if not (Path(data_root()) / folder).is_dir():
        pytest.skip(f"{Path(data_root()) / folder} is not there: set LOOPFM_DATA to the root of the data sets")


@pytest.mark.parametrize("path", CONF, ids=lambda path: path.stem)
def test_every_conf_file_loads(path):
    config = load_config(path)
    assert config.name == path.stem
    assert sum(config.windows.model_dump().values()) % config.dataset.grain == 0


def test_the_four_data_sets_are_there():
    assert {path.stem for path in CONF} >= {"demo", "world", "ebnerd", "globo"}


@pytest.mark.parametrize("name", ["demo", "world"])
def test_generated_worlds_hold_their_windows(name):
    config = load_config(f"conf/{name}.yaml")
    world = config.dataset.source.world
    assert world is not None
    clock, declared = config.dataset.clock, config.range
    length = world.days * DAY_MS if declared is None else clock.end(declared.last) - clock.start(declared.first)
    assert length == sum(config.windows.model_dump().values()) <= world.days * DAY_MS
    assert config.windows.label_wait >= world.label_delay + MAX_LATE_HOURS * HOUR_MS
    hidden = {"user_state", "interest", "item_state", "context"}
    assert hidden <= set(config.dataset.fm_features)
    for vertical in config.dataset.verticals.values():
        assert not (hidden | {"user", "item"}) & set(vertical.features)


def test_ebnerd_follows_the_protocol(spark):
    """Method section 4: 583,054 rows, 8.6 % clicks, FM from 18 May, test on 31 May and 1 June, 30 dense features."""
    real("ebnerd_demo")
    config = load_config("conf/ebnerd.yaml")
    found = profile(spark, config.dataset)
    assert (found.accepted, found.rejected) == (583_054, 0)
    assert found.labels[0].rate == pytest.approx(0.0862, abs=1e-4)
    assert found.parts == ("2023-05-18T07", "2023-06-01T06")
    dense = [c for name in config.dataset.fm_features for c in config.dataset.as_of_columns(name) or []]
    assert len(dense) + len(["slate_size", "on_article_flag"]) == 30
    after = {"read_time", "scroll_percentage", "next_read_time", "next_scroll_percentage"}
    assert not after & set(config.dataset.source.expected_columns or {})


def test_ebnerd_test_window_has_its_rows(spark):
    real("ebnerd_demo")
    dataset = load_config("conf/ebnerd.yaml").dataset
    parts = dataset.clock.between(*dataset.clock.span("2023-05-31", "2023-06-01"))
    frames = ingest_frames(spark, dataset, parts)
    assert frames.examples.count() == frames.labels.count() == 57_163
    assert frames.rejected == {}
    frames.release()


def test_globo_is_click_only_with_four_negatives_a_click(spark):
    real("globo_news")
    dataset = load_config("conf/globo.yaml").dataset
    assert source_parts(spark, dataset) is not None
    frames = ingest_frames(spark, dataset, ["2017-10-14"])
    total, clicks = frames.labels.selectExpr("count(*)", "sum(label)").collect()[0]
    low, high = frames.examples.selectExpr("min(sampling_rate)", "max(sampling_rate)").collect()[0]
    frames.release()
    assert clicks == 5811
    assert total == 5 * clicks
    assert 0 < low < 0.01 < high == 1
    assert "session_size" not in (dataset.source.expected_columns or {})
