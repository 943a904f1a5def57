"""Failures for people: an error that names its partitions, the last counts known and what to do.

Each line becomes a note of the error; the command line prints them after its message, so that they are the last lines
of a task's log.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from feature_store.commits import where
from feature_store.errors import (
    BadDataError,
    CommitLockError,
    FeatureStoreError,
    MissingInputError,
    SparkStartError,
    SupersededError,
    ValidationError,
)
from feature_store.ledger import RUNNING, Scope
from feature_store.session import MEMORY_SETTING, lost_jvm
from pipelines.context import RunContext
from pipelines.errors import ADVICE, ConfigError, FullDiskError, LostProcessError, PipelineError, StepError

_FULL_DISK = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT))
WHERE, COUNTS = "partitions: ", "counts: "
AGAIN = "Airflow starts the task again by itself, and it writes the same rows"
OF_A_KILL = (
    f"{AGAIN}; at a terminal run the same command. If it is killed again, look for lack of memory (`dmesg`): lower "
    f"{MEMORY_SETTING}, or write fewer partitions at once"
)
_ADVICE: list[tuple[type[Exception], str]] = [
    (LostProcessError, OF_A_KILL),
    (FullDiskError, "free space there, then clear the task or run the same command; what was committed stays"),
    (BadDataError, "correct the source as the message says, then clear the task or run the same command: bad data is "
                   "not tried again"),
    (ValidationError, "the rows break a rule of their table: find the step or source that made them, then clear the "
                      "task or run the same command"),
    (MissingInputError, "make the partitions that the message names, then clear the task or run the same command"),
    (SupersededError, "nothing, if the newer attempt ends well; `loopfm status CONF` tells"),
    (CommitLockError, AGAIN),
    (SparkStartError, "Airflow starts the task again by itself; if it does not start then either, do what the message "
                      "says"),
    (StepError, "do what the message says, then clear the task or run the same command"),
    (ConfigError, "correct the setting that the message names, then clear the task or run the same command"),
]  # fmt: skip
_UNKNOWN = (
    "read the message and the traceback above; `loopfm status CONF` tells what is written, and the same command goes "
    "on from there"
)


@contextmanager
def explained(
    context: RunContext, step: str, parts: Sequence[str], table: str, scope: Scope, reads: Mapping[str, int]
) -> Iterator[None]:
    """Errors of the body leave as those of the error tree, with notes on where, the counts and what to do.

    Args:
        step: the verb, for messages.
        parts: partitions that it works on.
        table: that it writes, in ``scope``.
        reads: input table -> pinned version.

    Raises:
        LostProcessError: Spark's JVM was killed.
        FullDiskError: no space is left.
    """
    try:
        yield
    except Exception as error:
        known = known_error(error, step, parts)
        annotate(known, parts, context.run_id, [counts(context, table, scope, parts, reads)])
        if known is error:
            raise
        raise known from error


def known_error(error: Exception, step: str, parts: Sequence[str]) -> Exception:
    """The error of the tree that stands for a lost process or a full disk; any other error as it is."""
    if isinstance(error, LostProcessError | FullDiskError):
        return error
    lost = lost_jvm(error)
    if lost is not None:
        return LostProcessError(f"{step} of {span(parts)}: {lost}; this attempt wrote nothing that is read")
    full = _full_disk(error)
    if full is not None:
        return FullDiskError(f"{step} of {span(parts)}: no space is left on the disk: {full}")
    return error


def _full_disk(error: BaseException) -> str | None:
    """The line of an error, or of what caused it, that tells of a full disk; Spark's name it deep in a Java trace."""
    lines = f"{error}\n{error.__cause__ or ''}".splitlines()
    return next((line.strip() for line in lines if any(words in line for words in _FULL_DISK)), None)


def annotate(error: BaseException, parts: Sequence[str], run_id: str, found: Sequence[str] = ()) -> None:
    """Add the notes, once: an error that passes several layers keeps those of the innermost, which knows most."""
    if any(note.startswith(WHERE) for note in getattr(error, "__notes__", [])):
        return
    error.add_note(f"{WHERE}{span(parts)} (run {run_id})")
    error.add_note(COUNTS + ("; ".join(text for text in found if text) or "nothing was written"))
    error.add_note(ADVICE + advice(error))


def remark(error: BaseException, text: str) -> None:
    """Add one more note to an annotated error, above the advice, which stays its last line."""
    error.add_note(text)
    notes = error.__notes__
    notes.sort(key=lambda note: note.startswith(ADVICE))


def advice(error: BaseException) -> str:
    """What to do about an error, in one sentence."""
    for kind, text in _ADVICE:
        if isinstance(error, kind):
            return text
    if isinstance(error, FeatureStoreError | PipelineError):
        return "do what the message says, then clear the task or run the same command"
    return _UNKNOWN


def counts(context: RunContext, table: str, scope: Scope, parts: Sequence[str], reads: Mapping[str, int]) -> str:
    """Rows read and rows written before, as far as the ledger knows; it may be what failed, so it is asked gently."""
    with contextlib.suppress(Exception):
        return "; ".join([*_read_rows(context, reads), _written_rows(context, table, scope, parts)])
    return ""


def killed(context: RunContext, reason: str, wanted: Sequence[str], last_line: str) -> LostProcessError:
    """The error that stands for a step's process that ended without a word of its own.

    Args:
        context: with the run id of that process.
        reason: how it ended.
        wanted: the partitions it was started for.
        last_line: the last thing it said.
    """
    error = LostProcessError(f"{reason}; the last that it said: {last_line or 'nothing'}")
    found = [f"{where(table, scope, parts)} was begun" for table, scope, parts in _begun(context)]
    done = context.store.ledger.coverage("examples", {}).values()
    rows = f"examples: {sum(e.done for e in done)} partitions done, {sum(e.rows for e in done if e.done):,} rows"
    annotate(error, wanted, context.run_id, [*found, rows])
    return error


def _begun(context: RunContext) -> list[tuple[str, Scope, list[str]]]:
    """Table, scope and partitions of this run's attempts that never ended."""
    own = [row for row in context.store.ledger.entries().to_pylist() if row["run_id"] == context.run_id]
    ended = {row["token"] for row in own if row["state"] != RUNNING}
    found: dict[str, tuple[str, Scope, list[str]]] = {}
    for row in sorted(own, key=lambda row: str(row["part"])):
        if row["token"] not in ended:
            found.setdefault(row["token"], (row["table"], json.loads(row["scope"]), []))[2].append(row["part"])
    return list(found.values())


def text_of(error: BaseException) -> str:
    """Message and notes, for the end of a log."""
    return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])


def span(parts: Sequence[str]) -> str:
    """A range in words."""
    if not parts:
        return "none named"
    return parts[0] if len(parts) == 1 else f"{parts[0]} .. {parts[-1]} ({len(parts)})"


def _read_rows(context: RunContext, reads: Mapping[str, int]) -> list[str]:
    found = []
    for name, version in reads.items():
        pins = getattr(version, "reads", ())
        rows = sum(
            entry.rows
            for scope, wanted in pins
            for part, entry in context.store.ledger.coverage(name, scope).items()
            if part in wanted and entry.done
        )
        found.append(f"{name} read at version {int(version)}: {rows:,} rows")
    return found


def _written_rows(context: RunContext, table: str, scope: Scope, parts: Sequence[str]) -> str:
    entries = context.store.ledger.coverage(table, scope)
    done = {part: entry for part, entry in entries.items() if entry.done}
    own = sum(part in done for part in parts)
    text = f"{table}: {own} of {len(parts)} partitions are done"
    earlier = [part for part in done if part not in parts]
    if not earlier:
        return f"{text}, no other was written yet"
    newest = done[max(earlier)]
    return f"{text}; the newest other one, {newest.part}, has {newest.rows:,} rows and {newest.rejected:,} rejected"
