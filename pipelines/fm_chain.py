"""Which earlier FMs a new one builds on: the newest of an earlier window, and those that it came from in turn."""

from __future__ import annotations

from feature_store.spaces import SpaceRecord
from models.config import FmConfig
from pipelines.context import RunContext

WARM_FROM = "loopfm.warm_from"
SEED = "loopfm.seed"


def fm_chain(context: RunContext, config: FmConfig, last_part: str, seed: int) -> list[SpaceRecord]:
    """Earlier FMs of this seed, oldest first: the last one is the start, all of them are averaged with the new FM.

    At most ``fm.snapshots`` - 1 of them, yet at least the start; empty without ``fm.warm_start`` or an earlier FM.

    Args:
        context: the project.
        config: the FM's settings.
        last_part: the newest partition that the new FM reads: a start has seen nothing of it.
        seed: of the new FM.
    """
    if not config.warm_start:
        return []
    spaces = {space.space_id: space for space in context.spaces.all()}
    start = context.dataset.clock.start(last_part)
    tags = {name: context.registry.run_tags(space.run_id) for name, space in spaces.items()}
    earlier = [
        space
        for name, space in spaces.items()
        if space.inputs_id == context.inputs_id
        and space.heads == context.dataset.heads
        and space.fm_train_cutoff < start
        and tags[name].get(SEED) == str(seed)
    ]
    if not earlier:
        return []
    chain = [max(earlier, key=lambda space: (space.fm_train_cutoff, space.space_id))]
    while len(chain) < config.snapshots - 1:
        before = spaces.get(tags[chain[0].space_id].get(WARM_FROM, ""))
        if before is None:
            break
        chain.insert(0, before)
    return chain
