"""How a table-writing step runs: pin inputs, begin an attempt, build one frame, commit it once, record or fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock, Thread
from typing import TYPE_CHECKING, Any

from feature_store.commits import Attempt, Pin, StepInfo
from feature_store.errors import FeatureStoreError
from pipelines.context import RunContext
from pipelines.digest import digest
from pipelines.failures import explained, remark
from pipelines.progress import timed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Scope = dict[str, str]

_BUILDING = RLock()
"""Held while a frame is declared: expressions of users are read under settings of the whole session
(``feature_store.sources.expressions.lenient``), which frames of other tables must not see."""


@dataclass(frozen=True)
class Read:
    """Partitions of a table that a step reads; ``optional`` ones may be absent from the store."""

    table: str
    scope: Scope
    parts: list[str]
    optional: bool = False


@dataclass(frozen=True)
class TableStep:
    """A step that writes one table.

    Args:
        name: the CLI verb.
        version: STEP_VERSION, raised when the output changes for equal inputs.
        table: the table that the step writes.
        definition: the declared settings that its output depends on.
    """

    name: str
    version: int
    table: str
    definition: Callable[[RunContext], Sequence[Any]]

    def info(self, context: RunContext) -> StepInfo:
        """What the ledger records of this step."""
        return StepInfo(
            name=self.name,
            version=self.version,
            definition=digest(*self.definition(context)),
            run_id=context.run_id,
            commit=context.commit,
        )


class PinnedInputs:
    """Pinned versions of a step's inputs, and frames over them."""

    def __init__(self, context: RunContext, reads: Sequence[Read]) -> None:
        self._context = context
        self.versions: dict[str, Pin] = {}
        for read in reads:
            version = context.store.pin(read.table, read.scope, read.parts, allow_missing=read.optional)
            if version is not None:
                self.versions[read.table] = version.merged(self.versions.get(read.table))

    def frame(self, table: str, scope: Scope, parts: list[str]) -> DataFrame | None:
        """The table's rows of ``parts`` at the pinned version; None where nothing was ever written."""
        if table not in self.versions or not parts:
            return None
        return self._context.store.read(self._context.spark, table, self.versions[table], scope, parts)

    def require(self, table: str, scope: Scope, parts: list[str]) -> DataFrame:
        """Like ``frame``, for inputs that are not optional."""
        frame = self.frame(table, scope, parts)
        if frame is None:
            raise AssertionError(f"{table} was not pinned")
        return frame


def write_table(
    context: RunContext,
    step: TableStep,
    scope: Scope,
    parts: list[str],
    versions: Mapping[str, int],
    build: Callable[[], DataFrame],
) -> int:
    """Run one commit of ``step`` over contiguous ``parts``; the ledger says running, then done or failed.

    Returns:
        The Delta version written.
    """
    attempt = begin(context, step, scope, parts, versions)
    with attempted(context, attempt):
        return commit(context, attempt, build)


def begin(context: RunContext, step: TableStep, scope: Scope, parts: list[str], versions: Mapping[str, int]) -> Attempt:
    """Begin an attempt of ``step`` at contiguous ``parts``; ``attempted`` must follow, which ends it."""
    return context.store.begin(step.table, scope, parts, step.info(context), dict(versions))


def commit(
    context: RunContext, attempt: Attempt, build: Callable[[], DataFrame], rejected: dict[str, int] | None = None
) -> int:
    """Build one frame and commit it; returns the Delta version written."""
    parts = attempt.parts
    where = f"{parts[0]} .. {parts[-1]}" if len(parts) > 1 else parts[0]
    what = " ".join([attempt.table, *attempt.scope.values(), where])
    with timed(context.progress, f"{attempt.step.name}: {what}"):
        with _BUILDING:
            frame = build()
        return context.store.commit(attempt, frame, rejected)


def together(context: RunContext, *writes: Callable[[], object]) -> None:
    """Run writes of tables that do not read each other at once, in one Spark session, and wait for all of them.

    One write leaves cores idle while its driver plans and commits, and while its last task runs.

    Raises:
        Exception: the error of the first of ``writes`` that failed, after the others have ended.
    """
    _ = context.spark  # made once, before threads ask for it
    errors: dict[int, BaseException] = {}

    def run(place: int, write: Callable[[], object]) -> None:
        try:
            write()
        except BaseException as error:
            errors[place] = error

    # Daemons: an interrupted step must not wait for Spark's jobs.
    threads = [Thread(target=run, args=pair, daemon=True) for pair in enumerate(writes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]


@contextmanager
def attempted(context: RunContext, *attempts: Attempt) -> Iterator[None]:
    """Attempts that belong together: an error of the body ends in the ledger, with its reason, and says where it was.

    What was read before any commit is part of the attempt: a bad source shows as failed, not as missing.
    """
    last = attempts[-1]
    try:
        with explained(context, last.step.name, last.parts, last.table, last.scope, last.reads):
            yield
    except Exception as error:
        try:
            for attempt in attempts:
                if context.store.ledger.version_of(attempt.token) is None:
                    context.store.fail(attempt, f"{type(error).__name__}: {error}"[:2000])
        except (FeatureStoreError, OSError) as silent:  # such as on a full disk
            remark(error, f"the ledger could not be told: {silent}")
        raise
