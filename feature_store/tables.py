"""TableStore: the tables of one data set. Spark writes them, delta-rs lists them, the ledger says what may be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from feature_store import checks, commits
from feature_store.commit_lock import commit_lock
from feature_store.commits import Attempt, Pin, StepInfo
from feature_store.config import RAW_SPACE, DatasetConfig
from feature_store.errors import ContractError, FeatureStoreError, MissingInputError, MixedSpacesError, ValidationError
from feature_store.ledger import FAILED, Ledger, Scope
from feature_store.schemas import PARTITION_COLUMNS, table_schema
from feature_store.spaces import SPACES, SpaceRegistry
from feature_store.store_files import DataFile, Location, matching_files, read_files
from feature_store.store_log import DeltaLog

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

RETENTION_DAYS = 365

_MADE_BY = {
    "examples": "ingest",
    "labels": "ingest",
    "past_events": "ingest",
    "quarantine": "ingest",
    "partials": "fm-inputs",
    "fm_inputs": "fm-inputs",
    "fm_outputs": "infer",
    "segments": "segments",
    "histories": "features",
    "features": "features",
    "evaluations": "evaluate",
    "spaces": "train-fm",
}
_VECTOR_TABLES = ("fm_outputs", "segments", "histories")
_SHOWN_PARTS = 5


class TableStore:
    """The Delta tables of one data set under ``root``, a folder or URI."""

    def __init__(self, root: str, dataset: DatasetConfig) -> None:
        self._location = Location(root)
        self._dataset = dataset
        self.root = self._location.root
        self.clock = dataset.clock
        self.ledger = Ledger(self._location)

    def schema(self, table: str) -> pa.Schema:
        """The table's fixed schema, partition columns included."""
        return SPACES if table == "spaces" else table_schema(self._dataset, table)

    def path(self, table: str) -> str:
        """The table's folder or URI, as Spark spells it."""
        return self._location.spark(table)

    def uri(self, table: str) -> str:
        """The table's folder or URI, as delta-rs spells it."""
        return self._location.uri(table)

    def log(self, table: str) -> DeltaLog:
        """The table's Delta log."""
        return DeltaLog(self._location.filesystem(table))

    def exists(self, table: str) -> bool:
        """Whether anything was ever written to the table."""
        return DeltaTable.is_deltatable(self.uri(table))

    def newest(self, table: str) -> int:
        """Newest Delta version of a table that has no ledger entries (evaluations, spaces)."""
        return self._open(table, None).version()

    def identity(self, table: str) -> str:
        """The id that Delta gave a table when it was made; tables that are moved keep it."""
        return str(self._open(table, None).metadata().id)

    def begin(
        self, table: str, scope: Scope, parts: Sequence[str], step: StepInfo, reads: Mapping[str, int]
    ) -> Attempt:
        """Start an attempt at a contiguous range of partitions; the ledger says ``running``.

        Args:
            table: the table to write.
            scope: its other partition columns that are fixed, such as ``{"space_id": ..}``.
            parts: contiguous partitions.
            step: what writes them.
            reads: input table -> pinned version, best as ``pin`` returned it. A table that is read in two scopes takes
                ``table@anything`` as further keys, or one ``Pin.merged``.

        Raises:
            ContractError: the partitions are not contiguous.
        """
        if not parts or list(parts) != self.clock.between(parts[0], parts[-1]):
            raise ContractError(f"{table}: got partitions {_some(parts)}; allowed: a contiguous, ascending range")
        return commits.begin(self.ledger, table, scope, list(parts), step, reads)

    def commit(self, attempt: Attempt, frame: DataFrame, rejected: Mapping[str, int] | None = None) -> int:
        """Check ``frame`` and overwrite the attempt's range with it: one job, one commit, ledger rows ``done``.

        A column that was declared since the table was made is added to it by the same commit; rows of other partitions
        read null there. A column that is no longer declared stays, null in the new rows.

        Args:
            attempt: from ``begin``.
            frame: rows of the table's exact schema; partitions without rows become empty, which is a valid state.
            rejected: part -> rows that went to quarantine.

        Returns:
            The Delta version written.

        Raises:
            SupersededError: a newer attempt or newer inputs took over; nothing was written.
            ValidationError: a rule of the table is broken, or a column's type has changed; nothing was written.
            MixedSpacesError: a row is of another space; nothing was written.
        """
        table, schema = attempt.table, self.schema(attempt.table)
        checks.require_schema(table, schema, frame)
        self._create(table)
        checks.require_kept_types(table, schema, DeltaTable(self.uri(table)).schema())
        rows = checks.checked(
            frame,
            table,
            self._dataset,
            schema,
            attempt.scope,
            attempt.parts,
            self._vectors(table, attempt.scope),
            self._files_per_part(attempt, frame.sparkSession),
        )
        try:
            commits.write(self.ledger, attempt, rows, self.path(table), attempt.metadata(rejected=rejected))
        except Exception as error:
            self._raise_broken_rule(attempt, error)
            raise
        self.ledger.reconcile(table)
        version = self.ledger.version_of(attempt.token)
        if version is None:
            raise FeatureStoreError(f"{attempt} committed, but no commit of its is in the log of {self.path(table)}")
        return version

    def fail(self, attempt: Attempt, message: str) -> None:
        """Record that the attempt wrote nothing."""
        self.ledger.append(attempt.entries(FAILED, message))

    def pin(self, table: str, scope: Scope, parts: Iterable[str], *, allow_missing: bool = False) -> Pin | None:
        """Version of ``table`` that holds ``parts`` as the ledger names them.

        It is the newest version that the ledger names for any partition, not the table's newest: a commit that is not
        ours is never read. It equals the partitions' own versions in content, and is not lost to retention.

        Returns:
            The version; None only with ``allow_missing`` where the table was never written.

        Raises:
            MissingInputError: names the partitions that are not done and the command that makes them.
        """
        self.ledger.reconcile(table)
        wanted = list(parts)
        coverage = self.ledger.coverage(table, scope)
        missing = [part for part in wanted if part not in coverage or not coverage[part].done]
        version = self.ledger.head(table)
        if not allow_missing and (missing or version is None):
            states = {part: coverage[part].state if part in coverage else "missing" for part in missing}
            raise MissingInputError(self._missing(table, scope, states))
        if version is None:
            return None
        written = [coverage[part].version_written or 0 for part in wanted if part in coverage and coverage[part].done]
        return Pin(version, ((dict(scope), frozenset(wanted)),), max(written, default=0))

    def read(
        self, spark: SparkSession, table: str, version: int, scope: Scope, parts: Sequence[str] | None
    ) -> DataFrame:
        """Rows of ``parts`` (None: all) at a pinned version; null in columns that were declared after it."""
        from pyspark.sql import functions as F

        frame = spark.read.format("delta").option("versionAsOf", int(version)).load(self.path(table))
        for column, value in scope.items():
            frame = frame.where(F.col(column) == value)
        if parts is not None:
            frame = frame.where(self._within(list(parts)))
        held = set(frame.columns)
        return frame.select(
            *(
                F.col(field.name) if field.name in held else F.lit(None).cast(field.dataType).alias(field.name)
                for field in checks.spark_schema(self.schema(table)).fields
            )
        )

    def files(self, table: str, version: int, scope: Scope, parts: Iterable[str] | None) -> list[DataFile]:
        """Data files of ``parts`` (None: all) at a pinned version, by partition; no Spark needed."""
        wanted: dict[str, Iterable[str]] = {column: [value] for column, value in scope.items()}
        if parts is not None:
            wanted["part"] = list(parts)
        return matching_files(self._open(table, version), self.uri(table), wanted)

    def arrow(
        self,
        table: str,
        version: int,
        scope: Scope,
        parts: Iterable[str] | None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows of ``parts`` (None: all) at a pinned version, partition columns included; no Spark needed."""
        files = self.files(table, version, scope, parts)
        names = list(columns) if columns is not None else None
        uri = self.uri(table)
        return read_files(files, uri, self._location.filesystem(table), self.schema(table), names)

    def append_arrow(self, table: str, rows: pa.Table) -> None:
        """Append rows to a table that has no partitions to overwrite (evaluations, spaces).

        Raises:
            ValidationError: the rows have another schema.
        """
        if rows.schema.remove_metadata() != self.schema(table):
            raise ValidationError(f"{table}: got columns\n{rows.schema}\nallowed:\n{self.schema(table)}")
        self._create(table)
        with commit_lock(self.uri(table)):
            write_deltalake(self.uri(table), rows, mode="append")

    def _within(self, parts: list[str]) -> str:
        if not parts:
            return "false"
        if parts == self.clock.between(parts[0], max(parts)):
            return f"part >= '{parts[0]}' AND part <= '{parts[-1]}'"
        return "part IN ({})".format(", ".join(f"'{part}'" for part in parts))

    def _open(self, table: str, version: int | None) -> DeltaTable:
        try:
            return DeltaTable(self.uri(table), version=None if version is None else int(version))
        except TableNotFoundError as error:
            raise MissingInputError(self._missing(table, {}, {})) from error

    def _create(self, table: str) -> None:
        if self.exists(table):
            return
        schema = self.schema(table)
        try:
            with commit_lock(self.uri(table)):
                DeltaTable.create(
                    self.uri(table),
                    schema,
                    mode="ignore",
                    partition_by=PARTITION_COLUMNS.get(table, []),
                    configuration=_settings(schema),
                    raise_if_key_not_exists=False,
                )
        except (CommitFailedError, DeltaError):
            if not self.exists(table):  # else another writer created it in the meantime, in the same way
                raise

    def _vectors(self, table: str, scope: Scope) -> checks.Vectors | None:
        if table not in _VECTOR_TABLES:
            return None
        if scope["space_id"] == RAW_SPACE:
            return checks.Vectors(0, 0)
        space = SpaceRegistry(self).get(scope["space_id"])
        return checks.Vectors(space.code_bytes, len(space.heads))

    def _files_per_part(self, attempt: Attempt, spark: SparkSession) -> int:
        """Files that a partition is spread over, by the rows of its inputs and of the table's other partitions."""
        tasks = int(spark.conf.get("spark.sql.shuffle.partitions") or 1)
        rows = [
            entry.rows
            for name in {attempt.table, *(name.split("@")[0] for name in attempt.reads)}
            for scope in self.ledger.scopes(name)
            for part, entry in self.ledger.coverage(name, scope).items()
            if entry.done and (part in attempt.parts or name == attempt.table)
        ]
        by_rows = -(-max(rows, default=checks.ROWS_PER_FILE) // checks.ROWS_PER_FILE)
        by_tasks = -(-tasks // len(attempt.parts))
        return max(1, min(by_rows, by_tasks, checks.MAX_FILES_PER_PART))

    def _raise_broken_rule(self, attempt: Attempt, error: Exception) -> None:
        broken = checks.failed_check(error)
        if broken is None:
            return
        kind = MixedSpacesError if broken.startswith("space_id=") else ValidationError
        raise kind(f"{attempt.table}: {broken}; nothing was written") from error

    def _missing(self, table: str, scope: Scope, states: Mapping[str, str]) -> str:
        named = " ".join([table, *(f"{column}={value}" for column, value in scope.items())])
        command = _MADE_BY.get(table, "run")
        if not states:
            return f"{named} was never written under {self.root}; `loopfm {command}` makes it"
        listed = [f"{part} ({state})" for part, state in states.items()]
        return (
            f"{named}: {len(states)} of the partitions needed are not done: {_some(listed)}; "
            f"`loopfm {command} --from {min(states)} --to {max(states)}` makes them"
        )


def _settings(schema: pa.Schema) -> dict[str, str]:
    """Retention, and statistics on scalar instants alone: vectors and lists would fill the log."""
    skipping = [
        name for name in ("event_ts", "arrived_at") if name in schema.names and schema.field(name).type == pa.int64()
    ]
    statistics = (
        {"delta.dataSkippingStatsColumns": ",".join(skipping)}
        if skipping
        else {"delta.dataSkippingNumIndexedCols": "0"}
    )
    interval = f"interval {RETENTION_DAYS} days"
    retention = {"delta.logRetentionDuration": interval, "delta.deletedFileRetentionDuration": interval}
    return retention | statistics


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_PARTS])
    return shown if len(names) <= _SHOWN_PARTS else f"{shown} .. {names[-1]}"
