"""Fixtures that every package's tests share: one Spark session, a clean home and a small data contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import models as models  # before torch: how its threads wait
from feature_store.config import DatasetConfig
from feature_store.session import spark_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOOP = "loop"
"""The fixture of ``tests/pipelines`` that runs the whole loop."""

TINY: dict[str, Any] = {
    "name": "tiny",
    "source": {"read": {"format": "parquet", "paths": ["unused"]}},
    "grain": "1d",
    "lag": "1h",
    "training_lag": "0s",
    "entities": {"user": "user", "item": "item"},
    "event_ts": {"value": "event_ts"},
    "labels": {"click": {"value": "click", "delay": "1h"}, "like": {"value": "like", "delay": "1d"}},
    "features": {
        "category": {"value": "category", "kind": "categorical"},
        "price": {"value": "price", "kind": "numeric"},
    },
    "fm_features": ["user", "item", "category", "price"],
    "histories": {"keys": {"user": ["user"], "user_category": ["user", "category"]}, "length": 3},
    "verticals": {
        "feed": {"label": "click", "features": ["item", "price"]},
        "shop": {"label": "like", "where": "price > 1", "features": ["item", "category", "price"]},
    },
}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what is dear to make stay in one process, and the largest group starts first."""
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: groups[item] != LOOP)


def _group(item: pytest.Item) -> str:
    if LOOP in getattr(item, "fixturenames", ()):
        return LOOP
    return "dags" if "dags" in item.path.parts else item.path.stem


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The session that all tests share: two cores, 1 GB of heap."""
    session = spark_session("loopfm-tests", master="local[2]", memory="1g")
    yield session
    session.stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LOOPFM_HOME."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("LOOPFM_HOME", str(folder))
    return folder


def make_dataset(**changes: Any) -> DatasetConfig:
    """A tiny valid data contract; ``changes`` replace top-level fields."""
    return DatasetConfig.model_validate(TINY | changes)
