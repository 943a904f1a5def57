"""Bytes on disk of segments and features against histories copied into every example.

The reference is what an example would hold with histories of its own: 50 tokens of 2 keys, each a float32 vector of
16 (64 B) and 13 B of event_ts, logit and label. The generated world gives 10 examples per active (key, partition).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.harness import BenchmarkError, Report, at_most, benchmark, timed
from benchmarks.loop_steps import FmWindows, open_space, span, write_loop, write_sources, write_tokens
from benchmarks.projects import ProjectSettings, workspace
from feature_store.config import RAW_SPACE, Strict
from pipelines.config import home, load_config
from pipelines.context import RunContext

TARGET = 0.10
TOKENS, KEYS = 50, 2
TOKEN_BYTES = 64 + 13


class StorageSettings(Strict):
    """``measured`` (first, last): days whose bytes count; tokens are written from ``first_tokens`` on.

    ``beside``: a project whose tables, where a run left them, are measured for comparison.
    """

    project: ProjectSettings
    fm: FmWindows
    first_tokens: str
    measured: tuple[str, str]
    beside: str


SETTINGS = StorageSettings


def body(settings: StorageSettings, report: Report) -> None:
    """Write the loop over the world, then add up the files of the measured days."""
    with workspace(settings.project.load(), report) as context:
        clock = context.dataset.clock
        measured = span(context, *settings.measured)
        with timed(report, "tables"):
            write_sources(context, span(context, settings.fm.train, measured[-1]))
            space = open_space(context, settings.fm)
            write_tokens(context, space, clock.between(settings.first_tokens, clock.next(measured[0], -1)))
            write_loop(context, space, measured)
        lengths = history_lengths(context, space.space_id, measured)
        if lengths.min() < TOKENS:
            raise BenchmarkError(f"a history holds {lengths.min()} tokens, not {TOKENS}: begin first_tokens earlier")
        report.add("examples_per_key_and_partition", examples_per_key(context, measured))
        report.add("tokens_per_history", float(lengths.mean()))
        add_shares(context, space.space_id, measured, report, "")
    _beside(settings.beside, report)


def add_shares(context: RunContext, space_id: str, parts: list[str], report: Report, prefix: str) -> None:
    """Figures of one project: bytes an example of each table, and their share of the reference."""
    scopes = {"": {"space_id": space_id}, "raw_": {"space_id": RAW_SPACE}}
    examples = rows_of(context, "features", scopes[""], parts)
    total = {"": 0, "raw_": 0}
    for raw, scope in scopes.items():
        for table in ("segments", "histories") if raw else ("segments", "histories", "features"):
            size = bytes_of(context, table, scope, parts)
            total[raw] += size
            report.add(f"{prefix}{raw}{table}_bytes_per_example", size / examples)
    reference = TOKENS * KEYS * TOKEN_BYTES * examples
    report.add(f"{prefix}with_raw_tokens_share", (total[""] + total["raw_"]) / reference)
    report.add(f"{prefix}segments_and_features_share", total[""] / reference, None if prefix else at_most(TARGET))


def bytes_of(context: RunContext, table: str, scope: dict[str, str], parts: list[str]) -> int:
    """Bytes of the data files of some partitions."""
    return sum(file.size for file in context.store.files(table, context.pin(table, scope, parts), scope, parts))


def rows_of(context: RunContext, table: str, scope: dict[str, str], parts: list[str]) -> int:
    """Rows of some partitions."""
    return sum(file.rows for file in context.store.files(table, context.pin(table, scope, parts), scope, parts))


def history_lengths(context: RunContext, space_id: str, parts: list[str]) -> np.ndarray:
    """Tokens of every history [P]."""
    scope = {"space_id": space_id}
    rows = context.store.arrow("histories", context.pin("histories", scope, parts), scope, parts, ["n"])
    return np.asarray(rows["n"].to_numpy())


def examples_per_key(context: RunContext, parts: list[str]) -> float:
    """Examples per active (key, partition), over the users and items of the measured days."""
    rows = context.store.arrow("examples", context.pin("examples", {}, parts), {}, parts, ["part", "user", "item"])
    active = sum(rows.group_by(["part", key]).aggregate([]).num_rows for key in ("user", "item"))
    return 2 * rows.num_rows / active


def _beside(conf: str, report: Report) -> None:
    """The same share of a project that was run before; it is left out where no run left its tables."""
    context = RunContext(load_config(conf), conf, root=home(), progress=report.say)
    spaces = context.spaces.active() if Path(context.folder, "tables", "spaces").is_dir() else []
    if not spaces:
        report.say(
            f"{context.config.name} has no tables under {context.root}: run `loopfm run {conf}` to see its share"
        )
        return
    space = spaces[0]
    done = context.store.ledger.coverage("features", {"space_id": space.space_id})
    parts = sorted(part for part, entry in done.items() if entry.done)
    add_shares(context, space.space_id, parts, report, f"{context.config.name}_")


if __name__ == "__main__":
    sys.exit(benchmark("storage", SETTINGS, body))
