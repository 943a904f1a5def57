"""What each verb of the command line does: options in, one call of a step, a few lines out."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.context import RunContext
from pipelines.errors import ConfigError
from pipelines.orchestration.facts import run_id
from pipelines.progress import ConsoleProgress

Facts = dict[str, Any] | None
"""What a verb leaves for the scheduler that started it."""
Handler = Callable[[Namespace], Facts]


def context_of(options: Namespace) -> RunContext:
    """The project of a command, with progress lines for people and logs."""
    return RunContext.load(options.conf, progress=ConsoleProgress(), run_id=run_id())


def parts_of(context: RunContext, options: Namespace) -> list[str]:
    """Partitions from --from to --to; days stand for all of theirs."""
    clock = context.dataset.clock
    return clock.between(*clock.span(options.first, options.last or options.first))


def mlflow_run(context: RunContext, run_id: str) -> dict[str, Any]:
    """The facts that the link of a task to its MLflow run is made of."""
    return {"run_id": run_id, "experiment": context.registry.experiment_id}


def _run_range(context: RunContext, options: Namespace) -> tuple[str, str]:
    from pipelines.windows import run_range

    return run_range(context, options.first, options.last)


def check(options: Namespace) -> Facts:
    """Profile of the source."""
    from feature_store.profile import profile
    from pipelines.ingest import attempted_check

    context = context_of(options)
    if not options.first and (options.last or options.record):
        given = "--to" if options.last else "--record"
        raise ConfigError(f"{given}: got no --from; give it too, or leave {given} out to read the whole source")
    if not options.first:
        print(profile(context.spark, context.dataset, None))
        return None
    parts = parts_of(context, options)
    with attempted_check(context, parts, options.record):
        found = profile(context.spark, context.dataset, parts)
        print(found)
    return {"rows": found.accepted, "rejected": found.rejected, "late": found.late, "reasons": found.reasons}


def plan(options: Namespace) -> None:
    """What a run over the range would do, and why."""
    from pipelines.run_plan import plan_run
    from pipelines.windows import run_windows

    context = context_of(options)
    windows = run_windows(context.config, *_run_range(context, options))
    for name, parts in vars(windows).items():
        print(f"{name:14} {parts[0]} .. {parts[-1]} ({len(parts)})" if parts else f"{name:14} none")
    actions = plan_run(context, windows, options.arms, options.seeds)
    if all(action.verb == "evaluate" for action in actions):
        print("nothing to write or train: every table is fresh, every training finished")
    for action in actions:
        print(action)


def status(options: Namespace) -> None:
    """Coverage: table x partition."""
    from pipelines.inspection.coverage import coverage, known_parts
    from pipelines.reopen import lacking_of_files

    context = context_of(options)
    parts = known_parts(context)
    if not parts:
        print(f"{context.dataset.name}: nothing ingested yet")
        return
    for found in coverage(context, context.spaces.active(), parts, lacking_of_files(context, parts)):
        counts = ", ".join(f"{count} {state}" for state, count in found.counts.items())
        print(f"{found.target.label:30} {found.rows:>12,} rows  {counts}")
        for first, last, state, count in found.ranges:
            if state.state not in ("done", "missing", "outside"):
                print(f"    {first} .. {last} ({count}): {state.state}: {state.reason}")


def run(options: Namespace) -> None:
    """The whole loop."""
    from pipelines.build_report import rebuild_report
    from pipelines.run import run_loop
    from pipelines.windows import run_windows

    context = context_of(options)
    windows = run_windows(context.config, *_run_range(context, options))
    run_loop(context, windows, options.arms, options.seeds)
    rebuild_report(context)


def rollback(options: Namespace) -> None:
    """Step rollback."""
    from pipelines.promote import rollback as step

    print(f"champion is version {step(context_of(options), options.vertical).version}")


def report(options: Namespace) -> Facts:
    """The HTML report from table evaluations."""
    from pipelines.build_report import rebuild_report

    return {"report": str(rebuild_report(context_of(options), Path(options.out) if options.out else None))}


def predict(options: Namespace) -> None:
    """Score a partition."""
    from pipelines.predict import predict as step

    histories = Path(options.histories) if options.histories else None
    rows = step(
        context_of(options),
        options.vertical,
        options.part,
        Path(options.out),
        options.version,
        histories,
        options.space,
    )
    print(f"{rows} rows scored, written to {options.out}")


def export_histories(options: Namespace) -> None:
    """Hand-off to serving."""
    from pipelines.predict import export

    context = context_of(options)
    space = context.space(options.space)
    for key, rows in export(context, space, _instant(options.as_of), Path(options.out)).items():
        print(f"{key}: {rows} histories")


def canary(options: Namespace) -> None:
    """Leakage proofs."""
    from pipelines.canary import canary as prove
    from pipelines.windows import run_windows

    context = context_of(options)
    result = prove(context, run_windows(context.config, *_run_range(context, options)))
    for table, rows in result.changed.items():
        print(f"non-interference  {table:28} {rows} rows changed")
    for leak, gain in result.power.items():
        print(f"power             {leak:36} {gain:+.4f} AUC")
    print(f"shuffled          histories of other keys gain {result.shuffled_gain:+.4f} NE over the control")


def _instant(text: str) -> int:
    if text.isdigit():
        return int(text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"--as-of: got {text!r}; allowed: ISO time such as 2026-01-09T01:00, or milliseconds"
        ) from error
    return int(instant.replace(tzinfo=instant.tzinfo or UTC).timestamp() * 1000)


HANDLERS: dict[str, Handler] = {
    "check": check,
    "plan": plan,
    "run": run,
    "status": status,
    "rollback": rollback,
    "report": report,
    "predict": predict,
    "export-histories": export_histories,
    "canary": canary,
}
