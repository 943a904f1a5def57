"""Runs the loop's steps and kills its own process: ROOT WHERE WHAT BOUNDARY.

WHERE one of ``STAGES`` or ``tables``, all of them; WHAT a table: the first commit to it. Boundaries: ``before`` the
data commit, ``committed`` (data committed, ledger not yet told), ``recorded`` (both done).
WHERE another step, WHAT one of ``EVENTS``: the first one within that step. Boundaries: ``before`` and ``after``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store import commits
from feature_store.clocks import HOUR_MS
from feature_store.sources.paths import DATA_ROOT_SETTING
from feature_store.tables import TableStore
from pipelines.context import RunContext
from pipelines.evaluate import evaluate
from pipelines.promote import promote
from pipelines.registry import CHAMPION, ModelRegistry
from pipelines.train_fm import train_fm
from pipelines.train_vm import train_vm
from pipelines.write_range import source_calls, write_calls, write_sources, write_space
from tests.pipelines import loop_world

VERTICAL = "feed"
PAST_FILE = "past.parquet"
PAST = {
    "read": {"format": "parquet", "paths": [f"${{{DATA_ROOT_SETTING}}}/{PAST_FILE}"]},
    "entities": {"user": "user", "item": "item"},
    "event_ts": "event_ms",
    "unit": "ms",
    "labels": {"click": "click"},
}

EVENTS: dict[str, tuple[type, str]] = {
    "version": (ModelRegistry, "register"),
    "alias": (ModelRegistry, "set_alias"),
    "finish": (ModelRegistry, "close_run"),
    "spaces": (TableStore, "append_arrow"),
    "evaluations": (TableStore, "append_arrow"),
}

_step = ""


def write_past(data_root: Path) -> None:
    """The second source: two events of some users in the days before the world."""
    start = loop_world.context(data_root).dataset.clock.start(loop_world.FIRST)
    users = [user for user in range(1, 101) for _ in range(2)]
    events = [start - (1 + place % 40) * HOUR_MS for place in range(len(users))]
    rows = {"user": users, "item": [1 + user % 60 for user in users], "event_ms": events}
    pq.write_table(pa.table({**rows, "click": [place % 2 for place in range(len(users))]}), data_root / PAST_FILE)


def context(root: Path) -> RunContext:
    """The loop's world with a second source, below LOOPFM_DATA, and a gate that every challenger passes."""
    of = loop_world.context(root, source={"world": loop_world.WORLD, "past_events": PAST})
    gate = of.config.gate.model_copy(update={"margin": 1.0, "gauc_margin": 1.0})
    of.config = of.config.model_copy(update={"gate": gate})
    return of


def write_ingested(of: RunContext) -> None:
    """The source's rows."""
    _write_first(of, 2)


def write_inputs(of: RunContext) -> None:
    """What the FM reads."""
    _write_first(of, 3)


def _write_first(of: RunContext, groups: int) -> None:
    """What is needed of the first groups of calls: examples, past events, what the FM reads."""
    windows = loop_world.windows(of)
    for calls in source_calls(of, windows.parts, windows.vm)[:groups]:
        write_calls(of, calls)


def write_raw(of: RunContext) -> None:
    """All that does not depend on a space."""
    windows = loop_world.windows(of)
    write_sources(of, windows.parts, windows.vm)


def write_fm(of: RunContext) -> None:
    """The tables of the FM's space, the FM trained where it is not."""
    windows = loop_world.windows(of)
    space = train_fm(of, windows.fm_train, windows.fm_validation)
    write_space(of, space, windows.outputs, windows.vm)


def write_tables(of: RunContext) -> None:
    """Every table."""
    write_raw(of)
    write_fm(of)


STAGES = {"ingested": write_ingested, "inputs": write_inputs, "raw": write_raw, "space": write_fm}
"""In order; each needs the ones before it. ``raw`` writes what the two before it left out."""


def crown(of: RunContext) -> None:
    """A first champion, which the VM of ``learn`` replaces."""
    windows = loop_world.windows(of)
    trained = train_vm(of, VERTICAL, of.space(), windows.vm_train, windows.vm_validation, seed=1)
    assert trained.version is not None
    of.registry.set_alias(of.vm_name(VERTICAL), CHAMPION, trained.version)


def learn_fm(of: RunContext) -> None:
    """Step train-fm alone."""
    windows = loop_world.windows(of)
    _enter("train-fm")
    train_fm(of, windows.fm_train, windows.fm_validation)


def learn_vm(of: RunContext) -> None:
    """What follows the tables: train-vm, evaluate, promote."""
    windows = loop_world.windows(of)
    _enter("train-vm")
    train_vm(of, VERTICAL, of.space(), windows.vm_train, windows.vm_validation)
    _enter("evaluate")
    evaluate(of, VERTICAL, windows.test)
    _enter("promote")
    promote(of, VERTICAL)


def _enter(step: str) -> None:
    global _step
    _step = step


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm_commit(table: str, boundary: str) -> None:
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


def arm_event(step: str, event: str, boundary: str) -> None:
    owner, name = EVENTS[event]
    original: Callable[..., Any] = getattr(owner, name)

    def call(own: Any, *args: Any) -> Any:
        meant = _step == step and (owner is ModelRegistry or args[0] == event)
        if meant and boundary == "before":
            die()
        result = original(own, *args)
        if meant:
            die()
        return result

    setattr(owner, name, call)


def main() -> None:
    root, step, what, boundary = sys.argv[1:]
    of = context(Path(root))
    if step in STAGES or step == "tables":
        arm_commit(what, boundary)
        STAGES.get(step, write_tables)(of)
    else:
        arm_event(step, what, boundary)
        (learn_fm if step == "train-fm" else learn_vm)(of)


if __name__ == "__main__":
    main()
