"""The verb ``align``: a way from one space to another without a backfill, beside the other ways."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from pipelines.cli_verbs import Facts, Handler, context_of, parts_of
from pipelines.errors import StepError

if TYPE_CHECKING:
    from feature_store.spaces import SpaceRecord
    from pipelines.align import FittedAlignment
    from pipelines.context import RunContext


def align_options(parser: ArgumentParser) -> None:
    """Options of ``align``."""
    parser.add_argument("--from-space", metavar="ID", required=True, help="space whose vectors are mapped")
    parser.add_argument("--to-space", metavar="ID", help="space that VMs read (default: that of the champions)")
    parser.add_argument(
        "--from", dest="first", metavar="PART", help="first partition that both hold (default: the newest that do)"
    )
    parser.add_argument("--to", dest="last", metavar="PART", help="last one, included (default: --from)")


def align(options: Namespace) -> Facts:
    """Fit every kind of map, keep the best; print qualities, drift, and what keeping, aligning and backfilling cost."""
    from pipelines.space_ways import advice, champion_space, table, ways

    context = context_of(options)
    source = context.spaces.get(options.from_space)
    target = context.spaces.get(options.to_space) if options.to_space else champion_space(context)
    if target is None or target.space_id == source.space_id:
        print(f"no champion reads another space than {source.space_id}: there is nothing to align")
        return {}
    fitted = _fitted(context, options, source, target)
    found = ways(context, source, target, fitted)
    print("\n".join(table(found, context.dataset.heads)))
    print(advice(found))
    facts = {"ways": {name: vars(way) for name, way in found.items()}, "advice": advice(found)}
    if fitted is None:
        return facts
    made = {"run_id": fitted.run_id, "map": fitted.alignment.kind, "quality": fitted.quality, "drift": fitted.drift}
    return {**made, **facts}


def _fitted(
    context: RunContext, options: Namespace, source: SpaceRecord, target: SpaceRecord
) -> FittedAlignment | None:
    """The map, told of; None where the spaces allow none and no partitions were asked for."""
    from pipelines.align import align as step
    from pipelines.space_ways import shared_parts

    parts = parts_of(context, options) if options.first else shared_parts(context, source, target)
    try:
        if not parts:
            raise StepError(f"spaces {source.space_id} and {target.space_id} share no partition")
        fitted = step(context, source, target, parts)
    except StepError as error:
        if options.first:
            raise
        print(f"no map: {error}")
        return None
    for kind, own in fitted.quality.items():
        print(f"{kind:12} " + "  ".join(f"{name} {value:.4f}" for name, value in own.items()))
    print("drift        " + "  ".join(f"{name} {value:.4f}" for name, value in fitted.drift.items()))
    print(
        f"map {fitted.alignment.kind}, run {fitted.run_id}: {source.space_id} is readable by VMs of {target.space_id}"
    )
    return fitted


ALIGN_HANDLERS: dict[str, Handler] = {"align": align}
