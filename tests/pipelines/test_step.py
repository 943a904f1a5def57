from __future__ import annotations

from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.step import together


@pytest.fixture
def context() -> Any:
    return SimpleNamespace(spark=None)


def test_writes_run_at_once(context):
    both = Barrier(2)
    together(context, lambda: both.wait(10), lambda: both.wait(10))


def test_the_first_error_is_raised_after_all_have_ended(context):
    ended = []

    def fails(name: str) -> None:
        raise ValueError(name)

    with pytest.raises(ValueError, match=r"^first$"):
        together(context, lambda: fails("first"), lambda: fails("second"), lambda: ended.append(True))
    assert ended == [True]
