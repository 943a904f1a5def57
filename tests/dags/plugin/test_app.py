"""The plugin as Airflow loads it, and its routes without a login."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.inspection.projects import Projects
from tests.pipelines import report_world

PLUGIN = Path(__file__).parents[3] / "dags/plugin"


@pytest.fixture(scope="module")
def app(world):
    from airflow.api_fastapi.app import init_auth_manager

    from dags.plugin.app import create_app

    init_auth_manager()
    return create_app(world.conf, str(world.root))


@pytest.fixture(scope="module")
def client(app):
    from fastapi.testclient import TestClient

    return TestClient(app)


def test_no_route_answers_without_a_login(app, client):
    values = {"project": "small", "name": "coverage.js"}
    paths = [route.path.format(**values) for route in app.routes]
    assert {"/coverage", "/vms", "/report/small", "/static/coverage.js", "/api/projects/small/lineage"} <= set(paths)
    query = {"table": "examples", "part": "2026-01-01", "vertical": "feed", "version": "1", "dag_id": "small_data"}
    assert {path: client.get(path, params=query).status_code for path in paths} == dict.fromkeys(paths, 401)
    forged = {"Authorization": "Bearer nonsense"}
    assert {client.get(path, params=query, headers=forged).status_code for path in paths} == {403}


def test_the_report_is_a_page_that_runs_no_script(world, monkeypatch):
    from dags.plugin.app import report

    projects = Projects(world.conf, str(world.root))
    monkeypatch.setattr(
        "pipelines.build_report.report_data", lambda of: replace(report_world.report(), project=of.config.name)
    )
    answer = report(SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(projects=projects))), "small")
    assert "<title>" in answer.body.decode()
    assert "small" in answer.body.decode()
    assert answer.media_type == "text/html"
    assert answer.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_airflow_finds_the_plugin_and_nothing_else_in_its_folder():
    from airflow._shared.plugins_manager import _load_plugins_from_plugin_directory

    plugins, errors = _load_plugins_from_plugin_directory(str(PLUGIN))
    assert errors == {}
    (plugin,) = plugins
    assert [(view["url_route"], view["href"]) for view in plugin.external_views] == [
        ("loopfm-coverage", "loopfm/coverage"),
        ("loopfm-vms", "loopfm/vms"),
    ]
    assert "app" not in sys.modules


def test_every_file_of_the_pages_is_their_own():
    for file in (PLUGIN / "static").iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, file.name
        assert "https:" not in text, file.name


def test_loading_the_plugin_imports_neither_the_api_nor_heavy_libraries():
    code = (
        "import sys; from airflow.plugins_manager import AirflowPlugin\n"
        "before = set(sys.modules); import dags.plugin.loopfm_plugin\n"
        "heavy = {'torch', 'pyspark', 'mlflow', 'pandas', 'fastapi', 'deltalake'} & (set(sys.modules) - before)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PLUGIN.parents[1])
    assert done.returncode == 0, done.stderr
