"""Where a local Airflow lives, what it is told, and what stops it from starting."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from pipelines.errors import ConfigError, StepError
from pipelines.orchestration.__main__ import main
from pipelines.orchestration.airflow_api import AirflowApi
from pipelines.orchestration.airflow_env import REPOSITORY, Site
from pipelines.orchestration.services import _prepare_database, down, up


@pytest.fixture(autouse=True)
def no_airflow_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of other tests' Airflow, which would win over the site's own."""
    for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
        monkeypatch.delenv(name)


def free_site(home: Path) -> Site:
    import socket

    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return Site(home, one.getsockname()[1], two.getsockname()[1])


def test_the_site_follows_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPFM_AIRFLOW_PORT", "18123")
    site = Site.from_environment()
    assert (site.home, site.airflow_url, site.mlflow_url) == (home, "http://127.0.0.1:18123", "http://127.0.0.1:5000")
    monkeypatch.setenv("LOOPFM_AIRFLOW_PORT", "eighty")
    with pytest.raises(ConfigError, match=r"LOOPFM_AIRFLOW_PORT: got 'eighty'; allowed: a port number such as 8080"):
        Site.from_environment()
    monkeypatch.setenv("LOOPFM_HOME", "s3://bucket/home")
    with pytest.raises(ConfigError, match=r"LOOPFM_HOME: got s3://bucket/home; a local Airflow needs a folder"):
        Site.from_environment()


def test_processes_are_told_one_story_and_outside_settings_win(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "7")
    environment = Site(home, 1, 2).environment()
    assert environment["AIRFLOW__CORE__PARALLELISM"] == "7"
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{home}/airflow/airflow.db"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:1/execution/"
    assert environment == Site(home, 1, 2).environment(), "secrets are made once"


def test_secrets_are_for_their_owner_only(home: Path) -> None:
    site = Site(home)
    assert len(site.password) >= 12
    for name in ("secrets.json", "passwords.json"):
        assert stat.S_IMODE((site.folder / name).stat().st_mode) == 0o600


def test_a_database_of_another_airflow_is_not_touched(home: Path) -> None:
    site = Site(home)
    site.folder.mkdir(parents=True)
    with sqlite3.connect(site.database) as connection:
        connection.execute("create table dag (dag_id text)")
    (site.folder / "database-version").write_text("3.0.1")
    with pytest.raises(
        StepError, match=rf"made by Airflow 3.0.1, this is Airflow {version('apache-airflow')}: .*UPGRADE=1"
    ):
        _prepare_database(site, site.environment(), upgrade=False)
    (site.folder / "database-version").unlink()
    with pytest.raises(StepError, match="made by Airflow unknown"):
        _prepare_database(site, site.environment(), upgrade=False)


def revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("select version_num from alembic_version").fetchone()[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_older_database_is_upgraded_beside_a_copy(home: Path) -> None:
    site = Site(home)
    _prepare_database(site, site.environment(), upgrade=False)
    newest = revision(site.database)
    older = [sys.executable, "-m", "airflow", "db", "downgrade", "--to-version", "3.1.0", "--yes"]
    subprocess.run(older, env=site.environment(), cwd=REPOSITORY, check=True, capture_output=True)
    before = revision(site.database)
    (site.folder / "database-version").write_text("3.1.0")
    _prepare_database(site, site.environment(), upgrade=True)
    assert revision(site.database) == newest != before
    assert revision(site.database.with_name("airflow-3.1.0.db")) == before
    assert (site.folder / "database-version").read_text() == version("apache-airflow")
    _prepare_database(site, site.environment(), upgrade=False)


def test_a_fitting_database_needs_nothing(home: Path) -> None:
    site = Site(home)
    site.folder.mkdir(parents=True)
    with sqlite3.connect(site.database) as connection:
        connection.execute("create table dag (dag_id text)")
    (site.folder / "database-version").write_text(version("apache-airflow"))
    _prepare_database(site, site.environment(), upgrade=False)
    assert not (site.folder / "logs").exists()


def test_a_taken_port_stops_the_start_before_anything_runs(home: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StepError, match="LOOPFM_AIRFLOW_PORT="):
            up(Site(home, taken.getsockname()[1]))
    assert not (home / "airflow" / "services.json").exists()


def test_ending_where_nothing_runs_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    down(Site(home))
    assert capsys.readouterr().out == f"nothing runs below {home}\n"
    assert main(["down"]) == 0


def test_no_airflow_is_one_line(home: Path) -> None:
    api = AirflowApi(free_site(home).airflow_url, "admin", "x")
    assert api.health() == {}
    with pytest.raises(StepError, match=r"no Airflow answers .*start one with `make up`"):
        api.dags()
