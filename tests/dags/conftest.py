"""An Airflow of its own for the tests of Dags: fresh folder, fresh database, no services."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

# Airflow reads its settings when it is first imported: they must be there before any test module is.
_HOME = tempfile.mkdtemp(prefix="loopfm-airflow-")
_BUNDLE = {"name": "loopfm", "classpath": "dags.bundle.ProjectsBundle", "kwargs": {}}
os.environ.update(
    {
        "AIRFLOW_HOME": _HOME,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(Path(__file__).parents[2] / "dags/plugin"),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([_BUNDLE]),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }
)

import pytest  # noqa: E402
import yaml  # noqa: E402

from tests.pipelines import loop_world  # noqa: E402


@pytest.fixture
def conf_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of projects."""
    folder = tmp_path / "conf"
    folder.mkdir()
    monkeypatch.setenv("LOOPFM_CONF", str(folder))
    return folder


@pytest.fixture
def project_file(conf_folder: Path, home: Path) -> Path:
    """A small project over the generated world; its tables go to an empty home."""
    path = conf_folder / "small.yaml"
    path.write_text(yaml.safe_dump(loop_world.raw_settings(name="small"), sort_keys=False))
    return path


@pytest.fixture(scope="session")
def airflow_database() -> None:
    """Airflow's tables and pools."""
    from airflow.models.pool import Pool
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    from pipelines.orchestration.airflow_env import POOLS

    initdb()
    with create_session() as session:
        for name, text in POOLS.items():
            Pool.create_or_update_pool(name, 1, text, include_deferred=False, session=session)
