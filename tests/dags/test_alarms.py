"""Alarms reach whoever listens, and a receiver that is away fails nothing."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dags.alarms import AlarmNotifier
from dags.project import Project


class Receiver(BaseHTTPRequestHandler):
    """Keeps what is posted to it."""

    received: list[dict[str, str]]

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        del arguments


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    Receiver.received = []
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("LOOPFM_ALARM_URL", f"http://127.0.0.1:{server.server_port}/")
    yield Receiver.received
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_alarm_is_posted_as_text(receiver: list[dict[str, str]]) -> None:
    AlarmNotifier(text="demo_data: lag 2026-01-09: late").notify({})
    asyncio.run(AlarmNotifier(text="from a deadline").async_notify({}))
    assert receiver == [{"text": "demo_data: lag 2026-01-09: late"}, {"text": "from a deadline"}]


def test_a_receiver_that_is_away_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("LOOPFM_ALARM_URL", "http://127.0.0.1:9/")
    AlarmNotifier(text="late").notify({})
    assert "ALARM late" in caplog.text
    assert "LOOPFM_ALARM_URL: the alarm could not be sent" in caplog.text


def test_the_deadline_of_a_run_is_the_promised_lag(project_file: Path) -> None:
    deadline = Project.load(str(project_file)).deadline()
    assert deadline is not None
    assert deadline.interval.total_seconds() == 3600
    assert deadline.callback.path == "dags.alarms.AlarmNotifier"
    assert "small_data: a partition is not ready 1:00:00 after" in deadline.callback.kwargs["text"]
