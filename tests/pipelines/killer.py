"""Runs the loop's table steps and kills its own process at one commit boundary: ROOT TABLE BOUNDARY.

Boundaries: ``before`` the data commit, ``committed`` (data committed, ledger not yet told), ``recorded`` (both done).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from feature_store import commits
from feature_store.tables import TableStore
from pipelines.train_fm import train_fm
from pipelines.write_range import write_sources, write_space
from tests.pipelines import loop_world


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(table: str, boundary: str) -> None:
    write, commit = commits.write, TableStore.commit

    def writing(ledger: Any, attempt: Any, *rest: Any) -> None:
        if attempt.table == table and boundary == "before":
            die()
        write(ledger, attempt, *rest)
        if attempt.table == table and boundary == "committed":
            die()

    def committing(store: TableStore, attempt: Any, *rest: Any) -> int:
        version = commit(store, attempt, *rest)
        if attempt.table == table:
            die()
        return version

    commits.write = writing
    if boundary == "recorded":
        TableStore.commit = committing  # type: ignore[method-assign]


def main() -> None:
    root, table, boundary = sys.argv[1:]
    arm(table, boundary)
    context = loop_world.context(Path(root))
    windows = loop_world.windows(context)
    write_sources(context, windows.parts, windows.vm)
    space = train_fm(context, windows.fm_train, windows.fm_validation)
    write_space(context, space, windows.outputs, windows.vm)


if __name__ == "__main__":
    main()
