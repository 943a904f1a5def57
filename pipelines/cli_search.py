"""Verb ``search``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipelines.cli_verbs import Facts, Handler, context_of
from pipelines.context import RunContext
from pipelines.errors import StepError

PLAN = ("trials", "method", "k", "seed", "time_limit_s", "stop_after")


def search_options(parser: ArgumentParser) -> None:
    """Options of ``search``; what is not given is as in ``SearchPlan``."""
    parser.add_argument("--vertical", metavar="NAME", required=True, help="which vertical, as named in the YAML file")
    parser.add_argument("--trials", type=int, required=True, help="VMs to train, failed ones included")
    parser.add_argument("--method", help="how to search; docs/search.md tells which when (default: predictor)")
    parser.add_argument("--parallel", dest="k", type=int, metavar="K", help="trials at once (default: 1)")
    parser.add_argument("--seed", type=int, help="of the search and of every training (default: 0)")
    parser.add_argument(
        "--time-limit", dest="time_limit_s", type=float, metavar="SECONDS", help="a trial that takes longer fails"
    )
    parser.add_argument("--stop-after", type=int, metavar="N", help="end this call after N trials of the search")
    parser.add_argument("--until", metavar="PART", help="newest partition that may be used (default: the newest one)")
    parser.add_argument("--space", metavar="ID", help="space of the FM (default: the champion's, else the newest)")


def search(options: Namespace) -> Facts:
    """Step search."""
    from pipelines.orchestration.windows import vm_space, vm_windows
    from pipelines.search_vm import SearchPlan, search_vm

    context = context_of(options)
    space = context.space(options.space) if options.space else vm_space(context, options.vertical)
    windows = vm_windows(context, options.vertical, space, options.until or _newest(context, space.space_id))
    given = {name: getattr(options, name) for name in PLAN if getattr(options, name) is not None}
    plan = SearchPlan(**given)
    result = search_vm(context, options.vertical, space, windows.train, windows.validation, plan)
    print(f"{len(result.history)} of {plan.trials} trials; by hand: NE {result.hand_set.ne:.5f}; run {result.run_id}")
    if result.winner is not None:
        print(f"winner: trial {result.winner.id}, NE {result.winner.ne:.5f}, challenger version {result.version}")
    return {
        "run_id": result.run_id,
        "trials": len(result.history),
        "version": result.version,
        "space": space.space_id,
        "test": windows.test,
    }


def _newest(context: RunContext, space_id: str) -> str:
    """The newest partition that has features."""
    entries = context.store.ledger.coverage("features", {"space_id": space_id})
    parts = [part for part, entry in entries.items() if entry.done]
    if not parts:
        raise StepError(f"no features of space {space_id} yet: run `loopfm features {context.origin} ...` first")
    return max(parts)


SEARCH_HANDLERS: dict[str, Handler] = {"search": search}
