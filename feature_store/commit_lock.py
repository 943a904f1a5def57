"""One commit at a time on a table that several machines write.

Delta's only log store for S3 lets two drivers overwrite each other's commit: it looks whether the next version's file
exists and then writes it, which is atomic within one driver alone. LOOPFM_COMMIT_LOCK names a PostgreSQL database whose
advisory locks, one a table, close that gap for every writer: Spark's commits, the ledger's appends, maintenance. The
lock belongs to a connection, so a killed driver loses it by itself. File systems that create files atomically (a local
disk, HDFS) need none.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from feature_store.errors import CommitLockError, ContractError
from feature_store.object_store import on_s3, s3_uri

LOCK_SETTING = "LOOPFM_COMMIT_LOCK"

WAIT_S = 4 * 3600
"""Longest wait: more than the longest commit takes, less than what a scheduler lets a task hang."""

_SCHEME = "postgresql://"
_HOLDER = """
SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND classid::bigint = ((%(key)s >> 32) & 4294967295) AND objid::bigint = (%(key)s & 4294967295)
"""


@contextmanager
def commit_lock(table: str) -> Iterator[None]:
    """Hold the lock of the table at ``table`` (folder or URI, in either spelling of S3) during the body.

    Not reentrant: the same table's lock may not be taken again inside.

    Raises:
        ContractError: the table lies on S3 and no lock is set, or the setting is no PostgreSQL address.
        CommitLockError: the database does not answer, a holder kept the lock too long, or the connection broke during
            the body, so that another writer may have committed at the same time: run the step again.
    """
    address = os.environ.get(LOCK_SETTING)
    if not address:
        if on_s3(table):
            raise ContractError(
                f"{table}: {LOCK_SETTING} is not set; Delta on S3 loses commits when two drivers write one table, so "
                f"set it to a PostgreSQL database that every writer reaches ({_SCHEME}user:password@host/database)"
            )
        yield
        return
    if not address.startswith(_SCHEME):
        raise ContractError(f"{LOCK_SETTING}: got another address than {_SCHEME}user:password@host/database")
    connection = _connect(address)
    try:
        _acquire(connection, table)
        yield
        _release(connection, table)
    finally:
        connection.close()


def lock_key(table: str) -> int:
    """The advisory lock's number: 64 signed bits of the table's address."""
    return int.from_bytes(hashlib.sha256(s3_uri(table).encode()).digest()[:8], signed=True)


def _connect(address: str) -> Any:
    try:
        import psycopg2
    except ImportError as error:
        raise CommitLockError(
            f"{LOCK_SETTING} is set, but psycopg2 is not installed: install psycopg2-binary"
        ) from error
    name = f"loopfm {socket.gethostname()[:40]}:{os.getpid()}"
    try:
        connection = psycopg2.connect(
            address, application_name=name, connect_timeout=30, keepalives_idle=30, keepalives_interval=10
        )
    except psycopg2.OperationalError as error:
        raise CommitLockError(f"{LOCK_SETTING}: no database answers there: {_first_line(error)}") from error
    connection.autocommit = True
    return connection


def _acquire(connection: Any, table: str) -> None:
    import psycopg2

    with connection.cursor() as cursor:
        try:
            cursor.execute("SET lock_timeout = %s", (f"{WAIT_S}s",))
            cursor.execute("SELECT pg_advisory_lock(%s)", (lock_key(table),))
        except psycopg2.errors.LockNotAvailable as error:
            cursor.execute(_HOLDER, {"key": lock_key(table)})
            holders = ", ".join(name for (name,) in cursor.fetchall()) or "nobody any more"
            raise CommitLockError(
                f"{table}: its commit lock was not free for {WAIT_S} s; held by {holders}: end that process, or wait"
            ) from error
        except psycopg2.OperationalError as error:
            raise CommitLockError(f"{table}: the lock's database went away: {_first_line(error)}") from error


def _release(connection: Any, table: str) -> None:
    import psycopg2

    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", (lock_key(table),))
            (held,) = cursor.fetchone()
    except psycopg2.Error as error:
        raise CommitLockError(_lost(table)) from error
    if not held:
        raise CommitLockError(_lost(table))


def _lost(table: str) -> str:
    return (
        f"{table}: the connection that held its commit lock broke during a commit, so another driver may have written "
        "at the same time; run the step again, which writes the same rows"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
