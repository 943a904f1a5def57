"""What the demo leaves behind: pools as before, whatever happens, Dags switched off, an Airflow that ran before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StepError
from pipelines.orchestration import demo as module
from pipelines.orchestration.airflow_api import AirflowApi
from pipelines.orchestration.airflow_env import Site
from pipelines.orchestration.demo import _slots
from pipelines.orchestration.processes import Service
from pipelines.orchestration.services import service_file


class Pool(AirflowApi):
    """An Airflow with one pool, which may stop answering."""

    def __init__(self) -> None:
        super().__init__("http://nowhere", "user", "password")
        self.pool: dict[str, Any] = {"name": "spark", "slots": 1, "description": "drivers", "include_deferred": False}
        self.answers = True

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        assert path == "/pools/spark"
        if not self.answers:
            raise StepError("no Airflow answers")
        if body is not None:
            assert set(body) == {"pool", "slots", "description", "include_deferred"}, "Airflow wants all of them"
            self.pool |= {"slots": body["slots"]}
        return dict(self.pool)


def _fail(api: Pool, message: str, *, dies: bool = False) -> None:
    with _slots(api, "spark", 2):
        api.answers = not dies
        raise StepError(message)


def test_slots_are_more_inside_and_as_before_afterwards() -> None:
    api = Pool()
    with _slots(api, "spark", 2):
        assert api.pool["slots"] == 2
    assert api.pool["slots"] == 1
    with pytest.raises(StepError, match="failed"):
        _fail(api, "failed")
    assert api.pool["slots"] == 1


def test_the_error_of_the_demo_is_told_where_airflow_has_died() -> None:
    with pytest.raises(StepError, match="the FM did not succeed"):
        _fail(Pool(), "the FM did not succeed", dies=True)


class Running(Pool):
    """An Airflow with the Dags of two projects."""

    def __init__(self) -> None:
        super().__init__()
        self.known = {"demo_data": False, "demo_fm": False, "demo_b_data": False}

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        if path.startswith("/dags/") and body is not None:
            self.known[path.removeprefix("/dags/")] = body["is_paused"]
            return {}
        return {"name": "spark", "slots": 1, "description": "", "include_deferred": False}


@pytest.mark.parametrize("ran_before", [True, False])
def test_dags_are_switched_off_and_only_an_own_airflow_ends(
    ran_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, api, ended = Site(tmp_path, 1, 2), Running(), []
    if ran_before:
        service_file(site).write([Service("scheduler", 1, 0.0, "log")])
    for name, stand_in in {
        "up": lambda of: api, "down": ended.append, "run_dags": lambda *of: ["demo_data", "demo_fm"],
        "_report": lambda *of: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(module, name, stand_in)
    module.demo(site)
    assert api.known == {"demo_data": True, "demo_fm": True, "demo_b_data": False}
    assert ended == ([] if ran_before else [site])
