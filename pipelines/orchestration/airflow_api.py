"""Airflow's public REST API: trigger, follow and read runs of a local or remote Airflow."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from pipelines.errors import StepError
from pipelines.orchestration.airflow_env import USER, Site

URL_SETTING = "LOOPFM_AIRFLOW_URL"
USER_SETTING = "LOOPFM_AIRFLOW_USER"
PASSWORD_SETTING = "LOOPFM_AIRFLOW_PASSWORD"
FINISHED = ("success", "failed")
PAGE = 100


class LoginEndedError(StepError):
    """The token of a login is no longer valid."""


class NoAnswerError(StepError):
    """Nothing answers at Airflow's address, or an answer broke off."""


class AirflowApi:
    """A logged-in client.

    Args:
        url: address of the API server.
        user, password: of a user who may trigger Dags.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url.rstrip("/")
        self._user, self._password = user, password
        self._token = ""

    @classmethod
    def from_environment(cls) -> AirflowApi:
        """The Airflow that LOOPFM_AIRFLOW_URL names, else the one that ``make up`` started."""
        if URL_SETTING in os.environ:
            return cls(
                os.environ[URL_SETTING], os.environ.get(USER_SETTING, USER), os.environ.get(PASSWORD_SETTING, "")
            )
        site = Site.from_environment()
        return cls(site.airflow_url, USER, site.password)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Answer of ``/api/v2`` + path, parsed.

        Raises:
            NoAnswerError: no Airflow answers there.
            StepError: it refuses; the message holds its reason.
        """
        if not self._token:
            self._log_in()
        try:
            return self._send(method, f"/api/v2{path}", body, self._token)
        except LoginEndedError:  # a long backfill outlives a login
            self._log_in()
            return self._send(method, f"/api/v2{path}", body, self._token)

    def health(self) -> dict[str, str]:
        """Component -> status; empty while nothing answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v2/monitor/health", timeout=5) as answer:
                found = json.load(answer)
        except (OSError, ValueError):
            return {}
        return {name: str((facts or {}).get("status")) for name, facts in found.items()}

    def wait_for_dag(self, dag_id: str, seconds: float = 90) -> None:
        """Wait until the Dag is known.

        Raises:
            StepError: it is not; the message holds the import errors there are.
        """
        end = time.monotonic() + seconds
        while dag_id not in self.dags():
            if time.monotonic() > end:
                errors = self.call("GET", "/importErrors")["import_errors"]
                reasons = "\n".join(error["stack_trace"] for error in errors) or "no import error is known"
                raise StepError(f"{self.url}: no Dag {dag_id}: {reasons}")
            time.sleep(1)

    def dags(self) -> dict[str, bool]:
        """Dag id -> whether it is paused."""
        return {dag["dag_id"]: dag["is_paused"] for dag in self._all("/dags", "dags")}

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run a Dag."""
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def pause(self, dag_id: str) -> None:
        """Make no more runs of a Dag; one that has begun goes on."""
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": True})

    def trigger(self, dag_id: str, conf: Mapping[str, Any], partition_key: str | None = None) -> str:
        """Start a run.

        Returns:
            Its run id.
        """
        body = {"conf": dict(conf), "logical_date": None, "partition_key": partition_key}
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """A run: ``state``, ``start_date``, ``end_date``, ``partition_key``, ..."""
        found: dict[str, Any] = self.call("GET", f"/dags/{dag_id}/dagRuns/{_quoted(run_id)}")
        return found

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Runs of a Dag, oldest first."""
        return self._all(f"/dags/{dag_id}/dagRuns?order_by=id", "dag_runs")

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Task instances of a run: ``task_id``, ``map_index``, ``state``, ``try_number``, ``duration``, ..."""
        return self._all(f"/dags/{dag_id}/dagRuns/{_quoted(run_id)}/taskInstances", "task_instances")

    def result(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
        """What a task returned (its XCom)."""
        path = f"/dags/{dag_id}/dagRuns/{_quoted(run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.call("GET", f"{path}?map_index={map_index}&deserialize=true")["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> list[str]:
        """Lines of a task's log; the message of an error follows the line that tells of it."""
        path = f"/dags/{dag_id}/dagRuns/{_quoted(run_id)}/taskInstances/{task_id}/logs/{try_number}"
        content = self.call("GET", f"{path}?map_index={map_index}")["content"]
        return [text for line in content for text in _texts(line)]

    def _all(self, path: str, name: str) -> list[dict[str, Any]]:
        """Every page of a list: Airflow answers with at most ``[api] maximum_page_limit`` rows, whatever is asked."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("GET", f"{path}{'&' if '?' in path else '?'}limit={PAGE}&offset={len(found)}")
            found += page[name]
            if not page[name] or len(found) >= (page["total_entries"] or 0):
                return found

    def _log_in(self) -> None:
        who = {"username": self._user, "password": self._password}
        self._token = str(self._send("POST", "/auth/token", who, "")["access_token"])

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, token: str) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:2000]
            kind = LoginEndedError if error.code == 401 and token else StepError
            raise kind(f"{method} {self.url}{path}: {error.code} {detail}") from error
        except (OSError, HTTPException) as error:
            raise NoAnswerError(f"{self.url}: no Airflow answers ({error}); start one with `make up`") from error
        return json.loads(text) if text else None


def _texts(line: Any) -> list[str]:
    if not isinstance(line, dict):
        return [str(line)]
    errors = line.get("error_detail") or []
    return [str(line.get("event", "")), *(f"{error['exc_type']}: {error['exc_value']}" for error in errors)]


def _quoted(run_id: str) -> str:
    return urllib.parse.quote(run_id, safe="")
