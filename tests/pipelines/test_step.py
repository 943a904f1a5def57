from __future__ import annotations

import re
import time
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.progress import ConsoleProgress, timed
from pipelines.step import commit, together


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


def test_frames_are_declared_one_after_the_other():
    """One of them changes settings of the session while it is declared."""
    inside, most = [], []

    def build() -> None:
        inside.append(1)
        time.sleep(0.05)
        most.append(len(inside))
        inside.pop()

    store = SimpleNamespace(commit=lambda attempt, frame, rejected: 0)
    attempt: Any = SimpleNamespace(parts=["2026-01-01"], step=SimpleNamespace(name="s"), table="t", scope={})
    context: Any = SimpleNamespace(spark=None, store=store, progress=lambda line: None)
    together(context, *[lambda: commit(context, attempt, build)] * 3)
    assert most == [1, 1, 1]


def test_progress_tells_what_begins_and_what_has_ended_and_when(capsys: pytest.CaptureFixture[str]) -> None:
    with timed(ConsoleProgress(), "ingest: examples"):
        pass
    begun, ended = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\[ +\d+\.\d s\] ingest: examples \.\.\.", begun)
    assert re.fullmatch(r"\[ +\d+\.\d s\] ingest: examples: done in \d+\.\d s", ended)
