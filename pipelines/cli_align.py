"""The verb ``align``: a way from one space to another without a backfill."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipelines.cli_verbs import Facts, Handler, context_of, parts_of


def align_options(parser: ArgumentParser) -> None:
    """Options of ``align``."""
    parser.add_argument("--from-space", metavar="ID", required=True, help="space whose vectors are mapped")
    parser.add_argument("--to-space", metavar="ID", required=True, help="space that VMs read")
    parser.add_argument("--from", dest="first", metavar="PART", required=True, help="first partition that both hold")
    parser.add_argument("--to", dest="last", metavar="PART", help="last one, included (default: --from)")


def align(options: Namespace) -> Facts:
    """Fit every kind of map, keep the best, print the quality of each."""
    from pipelines.align import align as step

    context = context_of(options)
    source, target = (context.spaces.get(name) for name in (options.from_space, options.to_space))
    fitted = step(context, source, target, parts_of(context, options))
    for kind, own in fitted.quality.items():
        print(f"{kind:12} " + "  ".join(f"{name} {value:.4f}" for name, value in own.items()))
    print("drift        " + "  ".join(f"{name} {value:.4f}" for name, value in fitted.drift.items()))
    print(
        f"map {fitted.alignment.kind}, run {fitted.run_id}: {source.space_id} is readable by VMs of {target.space_id}"
    )
    return {"run_id": fitted.run_id, "map": fitted.alignment.kind, "quality": fitted.quality, "drift": fitted.drift}


ALIGN_HANDLERS: dict[str, Handler] = {"align": align}
