"""What the registry answers where something is not there, and where MLflow does not answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.inspection.registered import ModelBook
from pipelines.registry import CHAMPION, ModelRegistry
from pipelines.upkeep import close_spaces, pinned_versions
from tests.pipelines import loop_world


def fail(*of: Any) -> None:
    raise MlflowException("API request to http://mlflow:5000 failed: Connection refused")


CALLS = ("get_model_version_by_alias", "get_model_version", "get_registered_model", "search_model_versions")
AWAY = SimpleNamespace(**dict.fromkeys(CALLS, fail))


def test_what_does_not_exist_is_none_or_named(tmp_path: Path) -> None:
    registry = ModelRegistry(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path), "test")
    assert registry.by_alias("loopfm-test-feed", CHAMPION) is None
    with pytest.raises(StepError, match=r"loopfm-test-feed: no version 3; there are \[\]"):
        registry.by_version("loopfm-test-feed", "3")
    registry.client.create_registered_model("loopfm-test-feed")
    assert registry.by_alias("loopfm-test-feed", CHAMPION) is None


def test_a_store_that_does_not_answer_is_not_taken_for_one_without_a_champion(tmp_path: Path) -> None:
    context = loop_world.context(tmp_path)
    context.registry.__dict__["client"] = AWAY
    for ask in (
        lambda: context.registry.by_alias(context.vm_name("feed"), CHAMPION),
        lambda: context.registry.by_version(context.vm_name("feed"), "1"),
        lambda: close_spaces(context),
        lambda: pinned_versions(context),
        lambda: _page(context),
    ):
        with pytest.raises(MlflowException, match="Connection refused"):
            ask()


def _page(context: RunContext) -> object:
    (Path(context.root) / "mlflow.db").touch()
    return ModelBook(context).vm("feed")
