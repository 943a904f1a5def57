"""What is done: an index over the commits of every table, itself a Delta table appended by delta-rs (no JVM).

Each event appends rows, one a partition: ``running`` when an attempt begins, ``done``, ``failed`` or ``expired`` when
it ends. The truth is the data commits themselves, which carry the same entry in Delta's userMetadata: ``reconcile``
inserts rows that a kill between data commit and ledger append has lost, so the ledger can be deleted and rebuilt.
(Only the row counts are not in userMetadata, since they are known once the one job that writes them has run: they are
the numRecords of the same commit's add actions.)

State of a partition: the latest row of its latest attempt. Attempts are ordered by number, then by a token, so two that
began at the same moment still have an order. One exception: if an older attempt nevertheless committed after a newer
one, the partition counts as failed until it is made again.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from feature_store.commit_lock import commit_lock
from feature_store.errors import FeatureStoreError
from feature_store.schemas import LEDGER, PARTITION_COLUMNS
from feature_store.store_files import DataFile, Location, matching_files, read_files
from feature_store.store_log import COMMIT_KEY, DeltaLog, LogCommit

if TYPE_CHECKING:
    from feature_store.commits import StepInfo

RUNNING, DONE, FAILED, EXPIRED = "running", "done", "failed", "expired"

_RANK = {RUNNING: 0, FAILED: 1, DONE: 2, EXPIRED: 3}
_TRIES = 8
_MAX_FILES = 400
_SETTINGS = {
    "delta.logRetentionDuration": "interval 7 days",
    "delta.deletedFileRetentionDuration": "interval 7 days",
    "delta.dataSkippingNumIndexedCols": "0",
}

Scope = dict[str, str]


@dataclass(frozen=True)
class LedgerEntry:
    """One event of one partition; the columns of the ledger, JSON columns parsed.

    ``version_written`` is null until done; ``versions_read`` maps each input table to the Delta version that was read;
    ``definition`` and ``step_version`` say what the step was, so that a plan can tell whether the entry is stale.
    """

    table: str
    scope: Scope
    part: str
    state: str
    attempt: int
    token: str
    step: str
    step_version: int
    definition: str
    version_written: int | None
    versions_read: dict[str, int]
    rows: int
    rejected: int
    digest: str
    run_id: str
    commit: str
    message: str
    started_at: int
    computed_at: int

    @property
    def order(self) -> tuple[int, str]:
        """Orders attempts at one partition."""
        return self.attempt, self.token

    @property
    def done(self) -> bool:
        """Whether the partition may be read."""
        return self.state == DONE

    def done_by(self, step: StepInfo) -> bool:
        """Whether it is done, by this version of the step and with these settings."""
        return self.done and (self.definition, self.step_version) == (step.definition, step.version)


def scope_text(scope: Scope) -> str:
    """A scope as the ledger stores it."""
    return json.dumps(scope, sort_keys=True)


def now_ms() -> int:
    """Wall clock in epoch milliseconds: audit columns only."""
    return time.time_ns() // 1_000_000


class Ledger:
    """The ledger of one data set's tables. One instance may be shared by threads."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._uri = location.uri("ledger")
        self._lock = threading.RLock()
        self._delta: DeltaTable | None = None
        self._index = _Index()
        self._read_files: set[str] = set()
        self._scanned: dict[str, int] = {}
        self._maintained: dict[str, int] = {}
        self._held = False

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Answers within tell one state, that of now: rows appended meanwhile, by whomever, are not seen."""
        with self._lock:
            self._refresh()
            outer, self._held = self._held, True
            try:
                yield
            finally:
                self._held = outer

    def coverage(self, table: str, scope: Scope) -> dict[str, LedgerEntry]:
        """part -> state of that partition now, in time order."""
        with self._lock:
            self._refresh()
            text = scope_text(scope)
            return {part: self._index.state(table, text, part) for part in sorted(self._index.latest[table, text])}

    def first_written(self, table: str, scope: Scope) -> dict[str, int]:
        """part -> version of the first commit that wrote it: what was read at an older version lacks the partition."""
        with self._lock:
            self._refresh()
            return dict(self._index.first[table, scope_text(scope)])

    def scopes(self, table: str) -> list[Scope]:
        """Scopes of a table that the ledger has entries of."""
        with self._lock:
            self._refresh()
            return [json.loads(scope) for name, scope in sorted(self._index.latest) if name == table]

    def last_attempt(self, table: str, scope: Scope, parts: Iterable[str]) -> LedgerEntry | None:
        """The newest attempt at any of ``parts``."""
        with self._lock:
            self._refresh()
            latest = self._index.latest[table, scope_text(scope)]
            return max((latest[part] for part in parts if part in latest), key=lambda e: e.order, default=None)

    def version_of(self, token: str) -> int | None:
        """Version that the attempt with this token wrote; None while it wrote none."""
        with self._lock:
            self._refresh()
            return self._index.written_by.get(token)

    def head(self, table: str) -> int | None:
        """Newest version of ``table`` that the ledger or a maintenance commit of ours names; None: never written."""
        with self._lock:
            self._refresh()
            known = [*self._index.versions[table], *(v for n, v in self._maintained.items() if n == table)]
            return max(known, default=None)

    def append(self, entries: list[LedgerEntry]) -> None:
        """Add events. Concurrent appenders never lose a row."""
        if not entries:
            return
        with self._lock:
            rows = _arrow(entries)
            for attempt in range(_TRIES):
                try:
                    with commit_lock(self._uri):
                        self._append(rows)
                    break
                except (CommitFailedError, DeltaError, OSError) as error:
                    if attempt == _TRIES - 1:
                        raise FeatureStoreError(f"{self._uri}: {_TRIES} appends in a row failed: {error}") from error
                    self._delta = None
                    time.sleep(0.02 * 2**attempt)
            self._refresh()

    def reconcile(self, table: str) -> int:
        """Insert the rows of commits that the ledger does not know yet.

        Returns:
            The number of commits whose rows were inserted.
        """
        with self._lock:
            log = DeltaLog(self._location.filesystem(table))
            versions = self._unscanned(table, log)
            if not versions:
                return 0
            self._refresh()
            known = self._index.versions[table]
            commits = [log.read(version) for version in versions if version not in known]
            found = [commit for commit in commits if commit.metadata is not None]
            entries = [entry for commit in found for entry in entries_of(commit)]
            self.append(entries)
            for commit in found:
                if commit.metadata and not commit.metadata["parts"]:
                    self._maintained[table] = max(commit.version, self._maintained.get(table, 0))
            self._scanned[table] = max(versions)
            return len({entry.version_written for entry in entries})

    def entries(self) -> pa.Table:
        """All events, in the ledger's own schema."""
        with self._lock:
            delta = self._open()
            if delta is None:
                return LEDGER.empty_table()
            return self._rows(matching_files(delta, self._uri, {}))

    def compact(self) -> None:
        """Merge the ledger's small files. Safe beside appenders; another compaction at the same time wins."""
        delta = self._open()
        if delta is not None:
            try:
                with commit_lock(self._uri):
                    delta.optimize.compact()
            except (CommitFailedError, DeltaError):
                self._delta = None

    def _unscanned(self, table: str, log: DeltaLog) -> list[int]:
        if table not in self._scanned:
            return log.versions()
        version, found = self._scanned[table] + 1, []
        while log.has(version):
            found.append(version)
            version += 1
        return found

    def _append(self, rows: pa.Table) -> None:
        if self._open() is None:
            DeltaTable.create(
                self._uri,
                LEDGER,
                mode="ignore",
                partition_by=PARTITION_COLUMNS["ledger"],
                configuration=_SETTINGS,
                raise_if_key_not_exists=False,
            )
        write_deltalake(self._uri, rows, mode="append", commit_properties=CommitProperties(max_commit_retries=30))

    def _open(self) -> DeltaTable | None:
        try:
            if self._delta is None:
                self._delta = DeltaTable(self._uri)
            else:
                self._delta.update_incremental()
        except TableNotFoundError:
            self._delta = None
        return self._delta

    def _refresh(self) -> None:
        if self._held:
            return
        delta = self._open()
        files = matching_files(delta, self._uri, {}) if delta is not None else []
        paths = {file.path for file in files}
        if not self._read_files <= paths:  # rows were deleted or files compacted: start afresh
            self._index, self._read_files = _Index(), set()
        self._index.add(self._rows([file for file in files if file.path not in self._read_files]))
        self._read_files = paths
        if len(paths) > _MAX_FILES:
            self.compact()

    def _rows(self, files: list[DataFile]) -> pa.Table:
        return read_files(files, self._uri, self._location.filesystem("ledger"), LEDGER, None)


class _Index:
    """Ledger rows by table, scope and part."""

    def __init__(self) -> None:
        self.latest: defaultdict[tuple[str, str], dict[str, LedgerEntry]] = defaultdict(dict)
        self.first: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        self.versions: defaultdict[str, set[int]] = defaultdict(set)
        self.written_by: dict[str, int] = {}
        self._written: dict[tuple[str, str, str], LedgerEntry] = {}

    def add(self, rows: pa.Table) -> None:
        for row in rows.to_pylist():
            scope = row["scope"]
            entry = LedgerEntry(
                **{**row, "scope": json.loads(scope), "versions_read": json.loads(row["versions_read"])}
            )
            self._add(entry, scope)

    def state(self, table: str, scope: str, part: str) -> LedgerEntry:
        latest = self.latest[table, scope][part]
        written = self._written.get((table, scope, part))
        if latest.done and written is not None and (written.version_written or 0) > (latest.version_written or 0):
            message = (
                f"attempt {written.attempt} overwrote attempt {latest.attempt} at version {written.version_written}"
            )
            return replace(latest, state=FAILED, message=message)
        return latest

    def _add(self, entry: LedgerEntry, scope: str) -> None:
        latest = self.latest[entry.table, scope]
        current = latest.get(entry.part)
        if current is None or _precedence(current) <= _precedence(entry):
            latest[entry.part] = entry
        if entry.version_written is None:
            return
        self.versions[entry.table].add(entry.version_written)
        self.written_by[entry.token] = entry.version_written
        if entry.done:
            first = self.first[entry.table, scope]
            first[entry.part] = min(entry.version_written, first.get(entry.part, entry.version_written))
        key = (entry.table, scope, entry.part)
        written = self._written.get(key)
        if written is None or (written.version_written or 0) <= entry.version_written:
            self._written[key] = entry


def _precedence(entry: LedgerEntry) -> tuple[int, str, int]:
    return (*entry.order, _RANK[entry.state])


def entries_of(commit: LogCommit) -> list[LedgerEntry]:
    """The ledger rows that a commit of ours stands for."""
    facts: dict[str, Any] = commit.metadata or {}
    return [
        LedgerEntry(
            table=facts["table"],
            scope=facts["scope"],
            part=part,
            state=facts[COMMIT_KEY],
            attempt=facts["attempt"],
            token=facts["token"],
            step=facts["step"],
            step_version=facts["step_version"],
            definition=facts["definition"],
            version_written=commit.version,
            versions_read=facts["versions_read"],
            rows=commit.rows.get(part, 0),
            rejected=facts["rejected"].get(part, 0),
            digest=_digest(commit.files.get(part, [])),
            run_id=facts["run_id"],
            commit=facts["commit"],
            message="",
            started_at=facts["started_at"],
            computed_at=commit.timestamp,
        )
        for part in facts["parts"]
    ]


def _digest(files: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()[:16]


def _arrow(entries: list[LedgerEntry]) -> pa.Table:
    rows = [{field.name: getattr(entry, field.name) for field in fields(entry)} for entry in entries]
    for row in rows:
        row["scope"] = scope_text(row["scope"])
        row["versions_read"] = json.dumps(row["versions_read"], sort_keys=True)
    return pa.Table.from_pylist(rows, schema=LEDGER)
