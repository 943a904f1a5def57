"""Verbs of single steps: each writes the given partitions, trains on a window, or moves an alias."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial

from feature_store.ledger import now_ms
from feature_store.spaces import SpaceRecord
from pipelines.cli_verbs import Facts, Handler, context_of, mlflow_run, parts_of
from pipelines.context import RunContext
from pipelines.errors import ConfigError
from pipelines.orchestration.facts import written
from pipelines.plan import Target


def ingest(options: Namespace) -> Facts:
    """Step ingest; with --reopened also the earlier partitions that have late rows."""
    from pipelines.ingest import ingest as step
    from pipelines.reopen import late_parts, runs_of
    from pipelines.write_range import past_calls, write_missing

    context, since = context_of(options), now_ms()
    parts = parts_of(context, options)
    late = late_parts(context, parts[0]) if options.reopened else []
    if late:
        context.progress(f"ingest: rows that arrived in {parts[0]} re-open {', '.join(late)}")
    for run in runs_of(context, [*late, *parts]):
        step(context, run)
    write_missing(context, past_calls(context, parts))
    return {"written": written(context, since), "reopened": late}


def fm_inputs(options: Namespace) -> Facts:
    """Step fm-inputs, for the FM as the YAML file declares it and for those of active spaces as they were declared."""
    from pipelines.fm_declaration import inputs_context, older_inputs, require_writable
    from pipelines.fm_inputs import fm_inputs as step
    from pipelines.plan import inputs_targets

    context, since = context_of(options), now_ms()
    _write(context, options, inputs_targets(context), lambda p: step(context, p))
    for space in older_inputs(context, context.spaces.active()):
        require_writable(context, space)
        declared = inputs_context(context, space)
        _write(declared, options, inputs_targets(declared), partial(step, declared), of_space=space)
    return {"written": written(context, since)}


def infer(options: Namespace) -> Facts:
    """Step infer."""
    from pipelines.infer import infer as step
    from pipelines.plan import space_targets

    context = context_of(options)
    space = context.space(options.space)
    targets = _named(space_targets(context, space), "fm_outputs")
    return _write(context, options, targets, lambda p: step(context, space, p))


def segments(options: Namespace) -> Facts:
    """Step segments; raw ones of earlier partitions too, where past events of a second source lie there alone."""
    from feature_store.config import RAW_SPACE
    from pipelines.plan import source_targets, space_targets
    from pipelines.segments import segments as step
    from pipelines.write_range import raw_calls, write_missing

    context, since = context_of(options), now_ms()
    space = None if options.space == RAW_SPACE else context.space(options.space)
    targets = source_targets(context) if space is None else space_targets(context, space)
    _write(context, options, _named(targets, "segments"), lambda p: step(context, space, p))
    if space is None:
        write_missing(context, raw_calls(context, parts_of(context, options)))
    return {"written": written(context, since)}


def features(options: Namespace) -> Facts:
    """Step features."""
    from pipelines.features import features as step
    from pipelines.plan import space_targets

    context = context_of(options)
    space = context.space(options.space)
    targets = _named(space_targets(context, space), "histories", "features")
    return _write(context, options, targets, lambda p: step(context, space, p))


def train_fm(options: Namespace) -> Facts:
    """Step train-fm."""
    from pipelines.orchestration.windows import fm_windows
    from pipelines.train_fm import train_fm as step

    context = context_of(options)
    if options.until:
        windows = fm_windows(context, options.until)
        train, validation = windows.train, windows.validation
    else:
        train, validation = _split(context, options)
    space = step(context, train, validation, options.seed, options.processes)
    print(f"space {space.space_id}, run {space.run_id}, fm_train_cutoff {space.fm_train_cutoff}")
    metrics = context.registry.run_metrics(space.run_id)
    inputs = context.store.ledger.coverage("fm_inputs", {"inputs_id": space.inputs_id})
    span = {
        "first_output": context.dataset.clock.next(validation[-1]),
        "last_output": max(part for part, entry in inputs.items() if entry.done),
    }
    return {**mlflow_run(context, space.run_id), "space": space.space_id, **span, "metrics": metrics}


def train_vm(options: Namespace) -> Facts:
    """Step train-vm."""
    from pipelines.orchestration.windows import vm_space, vm_windows
    from pipelines.train_vm import train_vm as step

    context = context_of(options)
    test: list[str] = []
    if options.until:
        space = context.space(options.space) if options.space else vm_space(context, options.vertical)
        windows = vm_windows(context, options.vertical, space, options.until)
        train, validation, test = windows.train, windows.validation, windows.test
    else:
        space = context.space(options.space)
        train, validation = _split(context, options)
    vm = step(
        context, options.vertical, space, train, validation, arm=options.arm, seed=options.seed, warm=options.warm
    )
    print(f"{vm.vertical} {vm.arm}: run {vm.run_id}, version {vm.version or 'not registered (not the recipe)'}")
    facts = {"version": vm.version, "space": space.space_id, "test": test, "arm": vm.arm}
    return {**facts, **mlflow_run(context, vm.run_id), "metrics": context.registry.run_metrics(vm.run_id)}


def evaluate(options: Namespace) -> Facts:
    """Step evaluate."""
    from pipelines.evaluate import evaluate as step

    context = context_of(options)
    shown: dict[str, dict[str, float]] = {}
    for figure in step(context, options.vertical, parts_of(context, options), options.version):
        if figure.slice == "all":
            print(f"{figure.arm:12} {figure.metric:22} {figure.value:.4f}")
            shown.setdefault(figure.arm, {})[figure.metric] = figure.value
    return {"figures": shown}


def promote(options: Namespace) -> Facts:
    """Step promote."""
    from pipelines.promote import promote as step

    context = context_of(options)
    result = step(context, options.vertical, options.version, options.approve)
    print(result)
    return {"verdict": result.verdict, "reasons": result.reasons, "metrics": result.metrics}


def _write(
    context: RunContext,
    options: Namespace,
    targets: Sequence[Target],
    step: Callable[[list[str]], object],
    of_space: SpaceRecord | None = None,
) -> Facts:
    """Run ``step`` on the given partitions; with --reopened also on earlier ones whose inputs were written again.

    With --reopened, partitions before the space's cutoff are left out: a schedule goes on from there. They are always
    left out with ``of_space``, whose inputs nothing else reads.
    """
    from pipelines.reopen import reopened, runs_of
    from pipelines.write_range import own_parts

    since, parts = now_ms(), parts_of(context, options)
    if of_space is not None:
        parts = own_parts(context, of_space, parts)
    if options.reopened and parts:
        parts = _after_cutoff(context, targets, reopened(context, targets, parts[0]), of_space)
        context.progress(f"{targets[0].step.name}: {', '.join(parts) or 'nothing: before the cutoff of the space'}")
    for run in runs_of(context, parts):
        step(run)
    return {"written": written(context, since)}


def _after_cutoff(
    context: RunContext, targets: Sequence[Target], parts: list[str], of_space: SpaceRecord | None
) -> list[str]:
    from pipelines.write_range import own_parts

    spaces = {space.space_id: space for space in context.spaces.all()}
    space = of_space or spaces.get(targets[0].scope.get("space_id", ""))
    return parts if space is None else own_parts(context, space, parts)


def _named(targets: Sequence[Target], *tables: str) -> list[Target]:
    return [target for target in targets if target.step.table in tables]


def _split(context: RunContext, options: Namespace) -> tuple[list[str], list[str]]:
    given = {"--from": options.first, "--to": options.last, "--validate-from": options.validate_from}
    if not all(given.values()):
        named = [name for name, value in given.items() if value] or "none of them"
        raise ConfigError(f"the windows of a training: got {named}; give --until, or all of {list(given)}")
    parts = parts_of(context, options)
    border = context.dataset.clock.span(options.validate_from, options.validate_from)[0]
    train, validation = [p for p in parts if p < border], [p for p in parts if p >= border]
    if not train or not validation:
        raise ConfigError(f"--validate-from {border} must lie inside {parts[0]} .. {parts[-1]}, after its first part")
    return train, validation


STEP_HANDLERS: dict[str, Handler] = {
    "ingest": ingest,
    "fm-inputs": fm_inputs,
    "train-fm": train_fm,
    "infer": infer,
    "segments": segments,
    "features": features,
    "train-vm": train_vm,
    "evaluate": evaluate,
    "promote": promote,
}
