"""How rows get into a table: one attempt, one Spark job, one commit that overwrites a contiguous range of partitions.

The commit is a ``replaceWhere`` over the scope and ``part >= a AND part <= b``; it carries its ledger entry in Delta's
userMetadata. Who may commit:

* the newest attempt at each of its partitions (``Attempt.order``). An older one, such as the driver that a killed task
  left behind, stops with SupersededError before it writes.
* only on inputs that are still the newest: when the ledger names a newer done version of a partition that was read, the
  attempt stops as well.

Both are checked when the commit starts and again right before Spark's job. What happens during the job is Delta's to
detect: a commit to the same partitions in the meantime makes this one fail, whereupon the check is repeated and, if the
attempt is still the newest, the job as well. Where tables lie on S3, Delta detects nothing across drivers: there a lock
(``feature_store.commit_lock``) spans check, job and commit.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feature_store.commit_lock import commit_lock
from feature_store.errors import FeatureStoreError, SupersededError
from feature_store.ledger import DONE, RUNNING, Ledger, LedgerEntry, Scope, now_ms
from feature_store.session import MASTER_SETTING, MEMORY_SETTING
from feature_store.store_log import COMMIT_KEY

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MAX_ROWS_PER_FILE = 2_000_000

_TRIES = 3


@dataclass(frozen=True)
class StepInfo:
    """What a step is: ``definition`` digests its declared settings, ``commit`` is the code's commit (audit only)."""

    name: str
    version: int
    definition: str
    run_id: str
    commit: str


class Pin(int):
    """A pinned Delta version that remembers which partitions it was pinned for.

    It is an ordinary int everywhere else. Handed to ``TableStore.begin`` in ``reads`` it lets the commit re-check
    exactly these partitions; a plain int re-checks the attempt's own partitions in every scope of the table.

    ``content`` is the newest version that wrote one of these partitions: it stays while only others are written.
    """

    reads: tuple[tuple[Scope, frozenset[str]], ...]
    content: int

    def __new__(cls, version: int, reads: tuple[tuple[Scope, frozenset[str]], ...], content: int | None = None) -> Pin:
        """A pin at ``version`` for (scope, partitions) pairs; ``content`` is ``version`` where it is not given."""
        pin = super().__new__(cls, version)
        pin.reads = reads
        pin.content = version if content is None else content
        return pin

    def merged(self, other: int | None) -> Pin:
        """One pin for what both read, at the newer version."""
        reads = other.reads if isinstance(other, Pin) else ()
        content = other.content if isinstance(other, Pin) else other or 0
        return Pin(max(self, other or 0), self.reads + reads, max(self.content, content))


def contents(pins: Mapping[str, Pin]) -> dict[str, int]:
    """What pinned tables hold, for digests: a later commit to other partitions, or a compaction, changes nothing."""
    return {table: pin.content for table, pin in pins.items()}


@dataclass(frozen=True)
class Attempt:
    """One try at writing ``parts`` of a table. ``reads`` maps each input table to its pinned version."""

    table: str
    scope: Scope
    parts: list[str]
    number: int
    token: str
    step: StepInfo
    reads: dict[str, int]
    started_at: int

    @property
    def order(self) -> tuple[int, str]:
        """Orders attempts at one partition."""
        return self.number, self.token

    def __str__(self) -> str:
        return f"attempt {self.number} (run {self.step.run_id}) at {where(self.table, self.scope, self.parts)}"

    def entries(self, state: str, message: str = "") -> list[LedgerEntry]:
        """Ledger rows of an event that wrote nothing."""
        return [
            LedgerEntry(
                table=self.table,
                scope=self.scope,
                part=part,
                state=state,
                attempt=self.number,
                token=self.token,
                step=self.step.name,
                step_version=self.step.version,
                definition=self.step.definition,
                version_written=None,
                versions_read={name: int(version) for name, version in self.reads.items()},
                rows=0,
                rejected=0,
                digest="",
                run_id=self.step.run_id,
                commit=self.step.commit,
                message=message,
                started_at=self.started_at,
                computed_at=now_ms(),
            )
            for part in self.parts
        ]

    def metadata(self, state: str = DONE, rejected: Mapping[str, int] | None = None) -> str:
        """The ledger entry as userMetadata carries it; the row counts are in the same commit's add actions."""
        facts: dict[str, Any] = {
            COMMIT_KEY: state,
            "table": self.table,
            "scope": self.scope,
            "parts": self.parts,
            "attempt": self.number,
            "token": self.token,
            "step": self.step.name,
            "step_version": self.step.version,
            "definition": self.step.definition,
            "versions_read": {name: int(version) for name, version in self.reads.items()},
            "rejected": {part: count for part, count in (rejected or {}).items() if count},
            "run_id": self.step.run_id,
            "commit": self.step.commit,
            "started_at": self.started_at,
        }
        return json.dumps(facts, separators=(",", ":"))

    @property
    def predicate(self) -> str:
        """The rows that the commit overwrites."""
        fixed = [f"{column} = '{value}'" for column, value in self.scope.items()]
        return " AND ".join([*fixed, f"part >= '{self.parts[0]}'", f"part <= '{self.parts[-1]}'"])


def where(table: str, scope: Scope, parts: list[str]) -> str:
    """A range in words."""
    span = parts[0] if len(parts) == 1 else f"{parts[0]} .. {parts[-1]}"
    return " ".join([table, *(f"{column}={value}" for column, value in scope.items()), span])


def begin(
    ledger: Ledger, table: str, scope: Scope, parts: list[str], step: StepInfo, reads: Mapping[str, int]
) -> Attempt:
    """Start the next attempt at ``parts``: one number for the range, above every earlier one of any of them."""
    ledger.reconcile(table)
    last = ledger.last_attempt(table, scope, parts)
    number = last.attempt + 1 if last else 1
    attempt = Attempt(table, dict(scope), list(parts), number, secrets.token_hex(4), step, dict(reads), now_ms())
    ledger.append(attempt.entries(RUNNING))
    return attempt


def require_current(ledger: Ledger, attempt: Attempt) -> None:
    """Check that the attempt is the newest at its partitions and that its inputs are.

    Raises:
        SupersededError: it is not; the message names both attempts, or the input.
    """
    ledger.reconcile(attempt.table)
    last = ledger.last_attempt(attempt.table, attempt.scope, attempt.parts)
    if last is not None and last.order > attempt.order:
        raise SupersededError(
            f"{attempt} was superseded by attempt {last.attempt} (run {last.run_id}, {last.state}) at {last.part}; "
            "nothing was written"
        )
    for name, version in attempt.reads.items():
        _require_newest(ledger, attempt, name.split("@")[0], version)


def _require_newest(ledger: Ledger, attempt: Attempt, table: str, version: int) -> None:
    ledger.reconcile(table)
    scopes = [(scope, frozenset(attempt.parts)) for scope in ledger.scopes(table)]
    for scope, parts in version.reads if isinstance(version, Pin) else scopes:
        for part, entry in ledger.coverage(table, scope).items():
            if part in parts and entry.done and (entry.version_written or 0) > version:
                raise SupersededError(
                    f"{attempt} read {table} at version {int(version)}, but attempt {entry.attempt} (run "
                    f"{entry.run_id}) wrote {where(table, scope, [part])} again at version {entry.version_written}; "
                    "nothing was written, run the step again"
                )


def write(ledger: Ledger, attempt: Attempt, frame: DataFrame, path: str, metadata: str) -> None:
    """Overwrite the attempt's range with ``frame`` in one job and one commit.

    Raises:
        SupersededError: a newer attempt, or newer inputs, took over before or while the job ran.
    """
    for left in reversed(range(_TRIES)):
        try:
            with commit_lock(path):
                require_current(ledger, attempt)
                _overwrite(frame, path, attempt.predicate, metadata)
            return
        except FeatureStoreError:
            raise
        except Exception as error:
            _raise_if_out_of_memory(attempt, error)
            if not _conflict(error):
                raise
            require_current(ledger, attempt)
            if not left:
                raise SupersededError(
                    f"{attempt} met {_TRIES} concurrent commits to its partitions in a row; run it again"
                ) from error


def _overwrite(frame: DataFrame, path: str, predicate: str, metadata: str) -> None:
    writer = frame.write.format("delta").mode("overwrite")
    writer = writer.option("replaceWhere", predicate).option("userMetadata", metadata).option("compression", "zstd")
    # Columns that are new to the table come with the rows: a job that fails has added none.
    writer = writer.option("mergeSchema", "true")
    writer.option("maxRecordsPerFile", MAX_ROWS_PER_FILE).save(path)


def _is_lost_worker(text: str) -> bool:
    """Whether Spark tells of a killed Python worker, or its class that starts workers of the killed process beneath it.

    The latter says each time what it was about (a port, a stream that is closed), so its name in the trace decides.
    """
    started = "PythonWorkerFactory" in text and "Cannot run program" not in text
    return started or "Python worker exited unexpectedly" in text


def _raise_if_out_of_memory(attempt: Attempt, error: Exception) -> None:
    text = str(error)
    if "OutOfMemoryError" in text:
        raise FeatureStoreError(
            f"{attempt}: Spark's heap is too small for this range; raise {MEMORY_SETTING} (as in 4g), or write fewer "
            "partitions at once"
        ) from error
    if _is_lost_worker(text):
        raise FeatureStoreError(
            f"{attempt}: a Python worker was killed, most likely for lack of memory, which lies outside Spark's heap; "
            f"lower {MEMORY_SETTING}, or run fewer workers at once ({MASTER_SETTING}=local[1])"
        ) from error


def _conflict(error: Exception) -> bool:
    from delta.exceptions import DeltaConcurrentModificationException

    return isinstance(error, DeltaConcurrentModificationException) or "DELTA_CONCURRENT" in str(error)
