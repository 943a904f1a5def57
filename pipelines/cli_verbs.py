"""What each verb of the command line does: options in, one call of a step, a few lines out."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pipelines.context import RunContext
from pipelines.errors import ConfigError
from pipelines.progress import ConsoleProgress

Handler = Callable[[Namespace], None]

DAY_TEXT = len("2023-05-25")


def _context(options: Namespace) -> RunContext:
    return RunContext.load(options.conf, progress=ConsoleProgress())


def _parts(context: RunContext, options: Namespace) -> list[str]:
    clock = context.dataset.clock
    return clock.between(*clock.span(options.first, options.last or options.first))


def _run_range(context: RunContext, options: Namespace) -> tuple[str, str]:
    """--from and --to, else the YAML's range, else the source's own in whole days."""
    declared = context.config.range
    first = options.first or (declared.first if declared else None)
    last = options.last or (declared.last if declared else None)
    if first is None or last is None:
        from feature_store.ingest import source_parts

        found = source_parts(context.spark, context.dataset)
        if found is None:
            raise ConfigError(f"{options.conf}: the source holds no row with an event time; give --from and --to")
        first, last = first or found[0][:DAY_TEXT], last or found[1][:DAY_TEXT]
    return first, last


def _split(context: RunContext, options: Namespace) -> tuple[list[str], list[str]]:
    parts = _parts(context, options)
    border = context.dataset.clock.span(options.validate_from, options.validate_from)[0]
    train, validation = [p for p in parts if p < border], [p for p in parts if p >= border]
    if not train or not validation:
        raise ConfigError(f"--validate-from {border} must lie inside {parts[0]} .. {parts[-1]}, after its first part")
    return train, validation


def check(options: Namespace) -> None:
    """Profile of the source."""
    from feature_store.profile import profile

    context = _context(options)
    print(profile(context.spark, context.dataset))


def plan(options: Namespace) -> None:
    """What a run over the range would write, and why."""
    from pipelines.plan import part_states, ranges, source_targets, space_targets
    from pipelines.windows import run_windows

    context = _context(options)
    windows = run_windows(context.config, *_run_range(context, options))
    for name in ("fm_train", "fm_validation", "warm_up", "vm_train", "vm_validation", "test"):
        parts = getattr(windows, name)
        print(f"{name:14} {parts[0]} .. {parts[-1]} ({len(parts)})" if parts else f"{name:14} none")
    targets = [(target, windows.parts) for target in source_targets(context)]
    active = context.spaces.active()
    for space in active:
        targets += [(target, windows.outputs) for target in space_targets(context, space)]
    for target, parts in targets:
        for first, last, state, count in ranges(parts, part_states(context, target, parts)):
            if not state.is_fresh:
                print(f"write {target.label:28} {first} .. {last} ({count}): {state.state}: {state.reason}")
    if not active:
        print("train-fm, then infer, segments and features of its space: no space is active yet")


def status(options: Namespace) -> None:
    """Coverage: table x partition."""
    from pipelines.plan import part_states, ranges, source_targets, space_targets

    context = _context(options)
    parts = sorted(context.store.ledger.coverage("examples", {}))
    if not parts:
        print(f"{context.dataset.name}: nothing ingested yet")
        return
    for target in source_targets(context) + [t for s in context.spaces.active() for t in space_targets(context, s)]:
        states = part_states(context, target, parts)
        counts = Counter(state.state for state in states.values())
        rows = sum(state.rows for state in states.values())
        print(
            f"{target.label:30} {rows:>12,} rows  " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
        )
        for first, last, state, count in ranges(parts, states):
            if state.state not in ("done", "missing"):
                print(f"    {first} .. {last} ({count}): {state.state}: {state.reason}")


def run(options: Namespace) -> None:
    """The whole loop."""
    from pipelines.build_report import rebuild_report
    from pipelines.run import run_loop
    from pipelines.windows import run_windows

    context = _context(options)
    windows = run_windows(context.config, *_run_range(context, options))
    run_loop(context, windows, options.arms, options.seeds)
    rebuild_report(context)


def ingest(options: Namespace) -> None:
    """Step ingest."""
    from pipelines.ingest import ingest as step

    context = _context(options)
    step(context, _parts(context, options))


def fm_inputs(options: Namespace) -> None:
    """Step fm-inputs."""
    from pipelines.fm_inputs import fm_inputs as step

    context = _context(options)
    step(context, _parts(context, options))


def train_fm(options: Namespace) -> None:
    """Step train-fm."""
    from pipelines.train_fm import train_fm as step

    context = _context(options)
    train, validation = _split(context, options)
    space = step(context, train, validation, options.seed, options.processes)
    print(f"space {space.space_id}, run {space.run_id}, fm_train_cutoff {space.fm_train_cutoff}")


def infer(options: Namespace) -> None:
    """Step infer."""
    from pipelines.infer import infer as step

    context = _context(options)
    step(context, context.space(options.space), _parts(context, options))


def segments(options: Namespace) -> None:
    """Step segments."""
    from feature_store.config import RAW_SPACE
    from pipelines.segments import segments as step

    context = _context(options)
    space = None if options.space == RAW_SPACE else context.space(options.space)
    step(context, space, _parts(context, options))


def features(options: Namespace) -> None:
    """Step features."""
    from pipelines.features import features as step

    context = _context(options)
    step(context, context.space(options.space), _parts(context, options))


def train_vm(options: Namespace) -> None:
    """Step train-vm."""
    from pipelines.train_vm import train_vm as step

    context = _context(options)
    train, validation = _split(context, options)
    space = context.space(options.space)
    vm = step(
        context, options.vertical, space, train, validation, arm=options.arm, seed=options.seed, warm=options.warm
    )
    print(f"{vm.vertical} {vm.arm}: run {vm.run_id}, version {vm.version or 'not registered (not the recipe)'}")


def evaluate(options: Namespace) -> None:
    """Step evaluate."""
    from pipelines.evaluate import evaluate as step

    context = _context(options)
    for figure in step(context, options.vertical, _parts(context, options)):
        if figure.slice == "all":
            print(f"{figure.arm:12} {figure.metric:22} {figure.value:.4f}")


def promote(options: Namespace) -> None:
    """Step promote."""
    from pipelines.promote import promote as step

    print(step(_context(options), options.vertical, options.version, options.approve))


def rollback(options: Namespace) -> None:
    """Step rollback."""
    from pipelines.promote import rollback as step

    print(f"champion is version {step(_context(options), options.vertical).version}")


def report(options: Namespace) -> None:
    """The HTML report from table evaluations."""
    from pipelines.build_report import rebuild_report

    rebuild_report(_context(options), Path(options.out) if options.out else None)


def predict(options: Namespace) -> None:
    """Score a partition."""
    from pipelines.predict import predict as step

    histories = Path(options.histories) if options.histories else None
    rows = step(_context(options), options.vertical, options.part, Path(options.out), options.version, histories)
    print(f"{rows} rows scored, written to {options.out}")


def export_histories(options: Namespace) -> None:
    """Hand-off to serving."""
    from pipelines.predict import export

    context = _context(options)
    space = context.space(options.space)
    for key, rows in export(context, space, _instant(options.as_of), Path(options.out)).items():
        print(f"{key}: {rows} histories")


def canary(options: Namespace) -> None:
    """Leakage proofs."""
    from pipelines.canary import canary as prove
    from pipelines.windows import run_windows

    context = _context(options)
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
    "ingest": ingest,
    "fm-inputs": fm_inputs,
    "train-fm": train_fm,
    "infer": infer,
    "segments": segments,
    "features": features,
    "train-vm": train_vm,
    "evaluate": evaluate,
    "promote": promote,
    "rollback": rollback,
    "report": report,
    "predict": predict,
    "export-histories": export_histories,
    "canary": canary,
}
