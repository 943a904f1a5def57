"""One line of progress at a time, with elapsed seconds, for people who watch and for logs alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ConsoleProgress:
    """Prints lines with the seconds since the start; flushes, so that a log shows them live."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        """Print one line."""
        print(f"[{time.monotonic() - self._start:6.1f} s] {line}", file=sys.stderr, flush=True)


@contextmanager
def timed(progress: Callable[[str], None], label: str) -> Iterator[None]:
    """Report ``label`` when the body starts, and how long it took when it ends."""
    start = time.monotonic()
    progress(f"{label} ...")
    yield
    progress(f"{label}: done in {time.monotonic() - start:.1f} s")
