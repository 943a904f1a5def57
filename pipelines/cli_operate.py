"""Verbs that operate a project: what its Dags call, and the backfill that a person starts."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from datetime import UTC, datetime

from feature_store.spaces import SpaceRecord
from pipelines.cli_verbs import Facts, Handler, context_of, mlflow_run
from pipelines.context import RunContext
from pipelines.errors import StepError

ALL_SPACES = "all"


def write_options(parser: ArgumentParser) -> None:
    """Options of ``write``."""
    _required_range(parser)
    parser.add_argument("--space", metavar="ID", default=ALL_SPACES, help="one space (default: every active one)")


def backfill_options(parser: ArgumentParser) -> None:
    """Options of ``backfill``."""
    write_options(parser)
    parser.add_argument("--yes", action="store_true", help="start without asking")
    parser.add_argument("--dry-run", action="store_true", help="only print the plan")


def score_options(parser: ArgumentParser) -> None:
    """Options of ``score``."""
    parser.add_argument("--part", required=True, help="the partition that has just closed")


def watch_options(parser: ArgumentParser) -> None:
    """Options of ``watch``."""
    score_options(parser)
    parser.add_argument("--live", action="store_true", help="the run follows the clock: a late one is a lag breach")


def gate_options(parser: ArgumentParser) -> None:
    """Options of ``gate``."""
    parser.add_argument("--vertical", metavar="NAME", required=True, help="which vertical, as named in the YAML file")
    parser.add_argument("--version", metavar="N", help="model version (default: the challenger)")


def compare_options(parser: ArgumentParser) -> None:
    """Options of ``compare``."""
    parser.add_argument("--vertical", metavar="NAME", required=True, help="which vertical, as named in the YAML file")
    parser.add_argument("--until", metavar="PART", required=True, help="newest partition that may be used")


def close_options(parser: ArgumentParser) -> None:
    """Options of ``close-spaces``."""
    parser.add_argument("--offered", metavar="ID", help="a new space, or none: closed too if no champion took it")


def _required_range(parser: ArgumentParser) -> None:
    parser.add_argument("--from", dest="first", metavar="PART", required=True, help="first partition or day")
    parser.add_argument("--to", dest="last", metavar="PART", help="last partition or day, included (default: --from)")


def _chosen(context: RunContext, options: Namespace) -> tuple[list[str], list[SpaceRecord]]:
    clock = context.dataset.clock
    parts = _closed(context, clock.between(*clock.span(options.first, options.last or options.first)))
    chosen = options.space or ALL_SPACES
    return parts, context.spaces.active() if chosen == ALL_SPACES else [context.space(chosen)]


def _closed(context: RunContext, parts: list[str]) -> list[str]:
    """Those of ``parts`` that have closed: half a partition would count as done, and its end as a time that has been.

    A generated world holds all of its rows at any time.
    """
    clock, now = context.dataset.clock, int(datetime.now(UTC).timestamp() * 1000)
    found = [part for part in parts if context.dataset.source.world is not None or clock.end(part) <= now]
    if not found:
        raise StepError(f"{parts[0]} has not closed yet: its scheduled run makes it once it has")
    if len(found) < len(parts):
        context.progress(f"{parts[len(found)]} .. {parts[-1]}: not closed yet, left to their scheduled runs")
    return found


def write(options: Namespace) -> Facts:
    """All steps over a range."""
    from feature_store.ledger import now_ms
    from pipelines.orchestration.facts import written
    from pipelines.write_range import write_range

    context, since = context_of(options), now_ms()
    write_range(context, *_chosen(context, options))
    return {"written": written(context, since)}


def backfill(options: Namespace) -> Facts:
    """Plan, ask, start the backfill Dag and follow it."""
    from pipelines.backfill_plan import plan_backfill
    from pipelines.orchestration.follow import run_backfill
    from pipelines.reopen import lacking_rows

    context = context_of(options)
    parts, spaces = _chosen(context, options)
    lacking = lacking_rows(context, parts, context.dataset.clock.start(parts[0]))
    plan = plan_backfill(context, parts, spaces, lacking)
    print(plan)
    if not plan.writes or options.dry_run:
        return {"chunks": plan.chunks, "rows": plan.rows, "seconds": round(plan.seconds)}
    if not options.yes and not _agreed():
        print("nothing was started")
        return None
    state = run_backfill(context.config.name, parts[0], parts[-1], options.space or ALL_SPACES)
    if state != "success":
        raise StepError(f"the backfill ended as {state}; what it wrote stays: run the same command to go on")
    return None


def score(options: Namespace) -> Facts:
    """Live champions on newly mature partitions."""
    from pipelines.live import score_champions

    context = context_of(options)
    found = score_champions(context, options.part)
    for figures in found:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in sorted(figures.metrics.items()))
        print(f"{figures.vertical} version {figures.version} {figures.part}: {shown}")
    return {"scored": [asdict(figures) for figures in found]}


def watch(options: Namespace) -> Facts:
    """Alarms."""
    from pipelines.live import alarms

    found = alarms(context_of(options), options.part, options.live)
    for alarm in found:
        print(f"ALARM {alarm.kind} {alarm.part}: {alarm.text}")
    return {"alarms": [asdict(alarm) for alarm in found]}


def gate(options: Namespace) -> Facts:
    """The verdict on a challenger; no alias moves."""
    from pipelines.promote import judge

    context = context_of(options)
    challenger, result = judge(context, options.vertical, options.version)
    print(result)
    figures = {"verdict": result.verdict, "reasons": result.reasons, "metrics": result.metrics}
    return {**figures, "version": challenger.version, **mlflow_run(context, challenger.run_id)}


def compare(options: Namespace) -> Facts:
    """Every arm of a vertical on its newest windows."""
    from pipelines.config import ARMS
    from pipelines.evaluate import compare_arms
    from pipelines.orchestration.windows import vm_space, vm_windows
    from pipelines.train_vm import train_vm

    context = context_of(options)
    space = vm_space(context, options.vertical)
    windows = vm_windows(context, options.vertical, space, options.until)
    trained = [
        train_vm(context, options.vertical, space, windows.train, windows.validation, arm=arm, register=False)
        for arm in ARMS
    ]
    figures = compare_arms(context, options.vertical, trained, [windows.train, windows.test])
    return {"ne": {f.arm: f.value for f in figures if f.metric == "ne" and f.slice == "all" and f.seed is None}}


def close_spaces(options: Namespace) -> Facts:
    """Close what nobody names."""
    from pipelines.upkeep import close_spaces as step

    closed = step(context_of(options), options.offered or None)
    print(f"closed: {', '.join(closed) or 'none'}")
    return {"closed": closed}


def maintain(options: Namespace) -> Facts:
    """Compaction and retention."""
    from pipelines.upkeep import maintain as step

    counts = step(context_of(options))
    print(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items()))
    return counts


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise StepError("no terminal to ask at: add --yes to start the backfill")
    return input("start it? [y/N] ").strip().lower() in ("y", "yes")


OPERATE_HANDLERS: dict[str, Handler] = {
    "backfill": backfill,
    "write": write,
    "score": score,
    "watch": watch,
    "gate": gate,
    "compare": compare,
    "close-spaces": close_spaces,
    "maintain": maintain,
}
