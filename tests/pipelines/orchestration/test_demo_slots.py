"""The demo's pools: wider while it runs, as before afterwards, whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pipelines.errors import StepError
from pipelines.orchestration.airflow_api import AirflowApi
from pipelines.orchestration.demo import _slots


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
