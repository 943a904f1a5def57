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

TOGETHER = ("tests/pipelines/", "tests/dags/")
"""Packages with fixtures that take a minute: the run of the whole loop, Airflow's database."""

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files of one package that share what is dear to make stay in one process; other files go where there is room."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPackage(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return next((package for package in TOGETHER if file.startswith(package)), file)

    return ByPackage(config, log)


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
