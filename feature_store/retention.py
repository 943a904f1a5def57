"""What may be removed: expired partitions, small files, and files that no pinned version needs. No JVM needed.

A vacuum has a horizon in time, not a version: it removes files that left the table before the horizon. So the horizon
is put before the oldest pinned version's commit; every later version, pinned or not, stays readable too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from deltalake import CommitProperties, DeltaTable, WriterProperties
from deltalake.exceptions import CommitFailedError

from feature_store import commits
from feature_store.clocks import DAY_MS, HOUR_MS
from feature_store.commit_lock import commit_lock
from feature_store.commits import StepInfo
from feature_store.errors import ContractError, MissingInputError, SupersededError
from feature_store.ledger import EXPIRED, Scope, now_ms
from feature_store.store_log import COMMIT_KEY
from feature_store.tables import RETENTION_DAYS, TableStore

MIN_HOURS = 7 * 24


def vacuum(
    store: TableStore, table: str, pinned: Iterable[int], *, min_hours: int = MIN_HOURS, dry_run: bool = False
) -> list[str]:
    """Remove files that only versions older than every pinned one need.

    Args:
        store: the data set's tables.
        table: table to clean.
        pinned: versions that must stay readable (registered champions, challengers and rollback targets); 0 counts.
        min_hours: files that left the table later than this stay anyway: running readers hold them.
        dry_run: only list.

    Returns:
        Paths of the files, relative to the table.

    Raises:
        ContractError: a pinned version is older than what the table's log keeps.
    """
    store.ledger.reconcile(table)
    head = store.ledger.head(table)
    kept = [*pinned, *([] if head is None else [head])]
    hours = max([min_hours, *(_age_hours(store, table, version) for version in kept)])
    with commit_lock(store.uri(table)):
        delta = DeltaTable(store.uri(table))
        return delta.vacuum(retention_hours=hours, dry_run=dry_run, enforce_retention_duration=False, full=True)


def compact(store: TableStore, table: str, scope: Scope, parts: Sequence[str]) -> int:
    """Merge the small files of closed partitions; the rows, and so the ledger's entries, stay as they are.

    Returns:
        The number of files that were merged.

    Raises:
        MissingInputError: a partition is not done.
        SupersededError: a partition was written again in the meantime; nothing was changed.
    """
    store.pin(table, scope, parts)
    filters = [(column, "=", value) for column, value in scope.items()]
    metadata = json.dumps({COMMIT_KEY: "compact", "table": table, "parts": []})
    try:
        with commit_lock(store.uri(table)):
            done = DeltaTable(store.uri(table)).optimize.compact(
                partition_filters=[*filters, ("part", "in", list(parts))],
                writer_properties=WriterProperties(compression="ZSTD"),
                commit_properties=CommitProperties(custom_metadata={"userMetadata": metadata}),
            )
    except CommitFailedError as error:
        raise SupersededError(
            f"{commits.where(table, scope, list(parts))} was written while it was compacted; run it again later"
        ) from error
    store.ledger.reconcile(table)
    return int(done["numFilesRemoved"])


def merge_log(store: TableStore, table: str) -> int:
    """Merge the small files of a table that grows by appends (evaluations, spaces, ledger): each of them left one.

    Files that this replaced ``MIN_HOURS`` ago or longer are removed.

    Returns:
        The number of files that were merged.
    """
    delta = DeltaTable(store.uri(table))
    with commit_lock(store.uri(table)):
        done = delta.optimize.compact(writer_properties=WriterProperties(compression="ZSTD"))
        delta.vacuum(retention_hours=MIN_HOURS, dry_run=False, enforce_retention_duration=False)
    return int(done["numFilesRemoved"])


def expire(store: TableStore, table: str, scope: Scope, before_part: str, step: StepInfo) -> int | None:
    """Delete the partitions before ``before_part``; the ledger says ``expired`` and keeps their entries.

    Returns:
        The version written; None where nothing was left to delete.

    Raises:
        SupersededError: one of them is being written again.
    """
    store.ledger.reconcile(table)
    coverage = store.ledger.coverage(table, scope)
    parts = [part for part, entry in coverage.items() if part < before_part and entry.done]
    if not parts:
        return None
    attempt = commits.begin(store.ledger, table, scope, parts, step, {})
    properties = CommitProperties(custom_metadata={"userMetadata": attempt.metadata(EXPIRED)})
    try:
        with commit_lock(store.uri(table)):
            commits.require_current(store.ledger, attempt)
            DeltaTable(store.uri(table)).delete(attempt.predicate, commit_properties=properties)
    except CommitFailedError as error:
        store.fail(attempt, str(error))
        raise SupersededError(f"{attempt} met a commit to its partitions; run it again later") from error
    store.ledger.reconcile(table)
    return store.ledger.version_of(attempt.token)


def _age_hours(store: TableStore, table: str, version: int) -> int:
    """Whole hours since ``version`` was committed, rounded up with an hour to spare."""
    try:
        committed = store.log(table).read(version).timestamp
    except FileNotFoundError as error:
        raise MissingInputError(
            f"{table}: version {version} is pinned, but its commit is no longer in the log of {store.path(table)}"
        ) from error
    age = now_ms() - committed
    if age >= RETENTION_DAYS * DAY_MS:
        raise ContractError(
            f"{table}: version {version} is pinned and older than {RETENTION_DAYS} days, the age up to which the log "
            "keeps what it needs; register a newer model, or unpin it"
        )
    return math.ceil(age / HOUR_MS) + 1
