"""What the client does with pages and with a login that ends, asked of a small server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from pipelines.errors import StepError
from pipelines.orchestration.airflow_api import AirflowApi

DAGS = [f"project{number}_data" for number in range(230)]
MOST = 100
"""Airflow's own limit of a page."""


LOG = [
    {"event": "::group::Log message source details", "sources": ["a file"]},
    {
        "event": "Task failed with exception",
        "error_detail": [{"exc_type": "StepError", "exc_value": "feed: too early"}],
    },
]


class Airflow(BaseHTTPRequestHandler):
    """Answers for a login with lists in pages; a token is good for ``uses`` questions."""

    logins = 0
    left = 0
    uses = 1000

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Airflow.logins += 1
        Airflow.left = Airflow.uses
        self._answer(201, {"access_token": f"token {Airflow.logins}"})

    def do_GET(self) -> None:
        if not Airflow.left or self.headers["Authorization"] != f"Bearer token {Airflow.logins}":
            self._answer(401, {"detail": "Invalid JWT token"})
            return
        Airflow.left -= 1
        if "/logs/" in self.path:
            self._answer(200, {"content": LOG})
            return
        asked = parse_qs(urlsplit(self.path).query)
        start = int(asked["offset"][0])
        page = DAGS[start : start + min(int(asked["limit"][0]), MOST)]
        self._answer(200, {"dags": [{"dag_id": name, "is_paused": True} for name in page], "total_entries": len(DAGS)})

    def _answer(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: object) -> None:
        del arguments


@pytest.fixture
def api() -> Iterator[AirflowApi]:
    Airflow.logins, Airflow.left, Airflow.uses = 0, 0, 1000
    server = HTTPServer(("127.0.0.1", 0), Airflow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield AirflowApi(f"http://127.0.0.1:{server.server_port}", "admin", "secret")
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_page_is_read(api: AirflowApi) -> None:
    assert list(api.dags()) == DAGS
    api.wait_for_dag(DAGS[-1], 0)


def test_a_login_that_ended_is_made_again_once(api: AirflowApi) -> None:
    Airflow.uses = 2
    assert list(api.dags()) == DAGS
    assert Airflow.logins == 2
    Airflow.uses = 0
    Airflow.left = 0
    with pytest.raises(StepError, match=r"401 .*Invalid JWT token"):
        api.dags()


def test_the_message_of_an_error_is_a_line_of_the_log(api: AirflowApi) -> None:
    assert api.log("project_vm_feed", "manual", "wait")[1:] == [
        "Task failed with exception",
        "StepError: feed: too early",
    ]
