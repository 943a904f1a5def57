"""Steps of the maintenance Dag: close spaces nobody needs, compact closed partitions, expire and vacuum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from feature_store.config import RAW_SPACE
from feature_store.errors import ContractError, MissingInputError
from feature_store.retention import compact, expire, merge_log, vacuum
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.features import FEATURES, HISTORIES
from pipelines.infer import FM_OUTPUTS
from pipelines.registry import CHALLENGER, CHAMPION, GATE_TAG, ROLLBACK, RegisteredModel
from pipelines.segments import SEGMENTS

ALIASES = (CHAMPION, ROLLBACK, CHALLENGER)
VERSION_TAG = "loopfm.version."
SPACE_STEPS = (FM_OUTPUTS, SEGMENTS, HISTORIES, FEATURES)
TABLES = ("examples", "labels", "past_events", "quarantine", "partials", "fm_inputs", *(s.table for s in SPACE_STEPS))
LOGS = ("evaluations", "spaces", "ledger")


def needed_models(context: RunContext, aliases: Sequence[str] = ALIASES) -> list[RegisteredModel]:
    """Versions that one of the aliases of any vertical names: champions, rollback targets, challengers."""
    names = [context.vm_name(vertical) for vertical in context.dataset.heads]
    found = [context.registry.by_alias(name, alias) for name in names for alias in aliases]
    return [model for model in found if model is not None]


def close_spaces(context: RunContext, offered: str | None = None) -> list[str]:
    """Close every active space that no champion, rollback target or challenger names.

    The newest one stays: nobody names a new FM's space yet.

    Args:
        context: the project.
        offered: a new space whose hand-over has ended: where each vertical with a champion has met the gate with a VM
            of it and none took over, it is closed too. Where one did not come as far, such as after a failed training,
            it stays: that run may be cleared and go on.

    Returns:
        Ids of the spaces that were closed.
    """
    active = context.spaces.active()
    serving = _spaces_of(context, (CHAMPION, ROLLBACK))
    kept = _spaces_of(context, ALIASES) | {space.space_id for space in active[-1:]}
    if serving and offered is not None and offered not in serving and _was_judged(context, offered):
        kept.discard(offered)
    closed = [space.space_id for space in active if space.space_id not in kept]
    for space_id in closed:
        context.spaces.close(space_id)
        context.progress(f"space {space_id} closed: neither a champion nor a rollback target names it")
    return closed


def pinned_versions(context: RunContext) -> dict[str, set[int]]:
    """Table -> Delta versions that the needed models, and those a person may still approve, were trained on, their FMs
    included."""
    pinned: defaultdict[str, set[int]] = defaultdict(set)
    models = [*needed_models(context), *_promotable(context)]
    runs = [model.run_id for model in models]
    runs += [context.spaces.get(model.tags["loopfm.space"]).run_id for model in models]
    for run_id in runs:
        for tag, value in context.registry.run_tags(run_id).items():
            if tag.startswith(VERSION_TAG):
                table = tag.removeprefix(VERSION_TAG).removeprefix("raw_")
                pinned[table].add(int(value))
    return dict(pinned)


def maintain(context: RunContext) -> dict[str, int]:
    """Expire the tables of closed spaces that no needed model names, compact what is done, vacuum what nobody needs.

    Returns:
        Files merged, removed and partitions expired, by name.

    Raises:
        StepError: a table keeps its old files, since a version that a model names can no longer be told; names it.
    """
    counts = {"expired_partitions": _expire_closed(context), "merged_files": 0, "removed_files": 0}
    pinned, refused = pinned_versions(context), []
    for table in TABLES:
        if not context.store.exists(table):
            continue
        for scope in context.store.ledger.scopes(table):
            done = [part for part, entry in context.store.ledger.coverage(table, scope).items() if entry.done]
            if len(done) > 1:
                counts["merged_files"] += compact(context.store, table, scope, done[:-1])
        try:
            counts["removed_files"] += len(vacuum(context.store, table, pinned.get(table, ())))
        except (ContractError, MissingInputError) as error:  # of this table's pins: the others want their upkeep too
            refused.append(str(error))
        context.progress(f"maintain: {table}: {counts}")
    for table in LOGS:
        if context.store.exists(table):
            counts["merged_files"] += merge_log(context.store, table)
    if refused:
        raise StepError(f"all else is done, but nothing was removed of {len(refused)} tables: {'; '.join(refused)}")
    return counts


def _spaces_of(context: RunContext, aliases: Sequence[str]) -> set[str]:
    return {model.tags["loopfm.space"] for model in needed_models(context, aliases)}


def _was_judged(context: RunContext, space_id: str) -> bool:
    """Whether the gate has a verdict on a VM of this space for every vertical with a champion to hand over."""
    names = [context.vm_name(vertical) for vertical in context.dataset.heads]
    serving = [name for name in names if context.registry.by_alias(name, CHAMPION) is not None]
    return all(any(GATE_TAG in model.tags for model in _of_space(context, name, space_id)) for name in serving)


def _promotable(context: RunContext) -> list[RegisteredModel]:
    """The newest version of each vertical and active space that the gate did not refuse: it may wait for a person while
    the next training takes the alias ``challenger``."""
    found = []
    for vertical in context.dataset.heads:
        for space in context.spaces.active():
            models = _of_space(context, context.vm_name(vertical), space.space_id)
            judged = [model for model in models if model.tags.get(GATE_TAG) in ("passed", "hold")]
            found += sorted(judged, key=lambda model: int(model.version))[-1:]
    return found


def _of_space(context: RunContext, name: str, space_id: str) -> list[RegisteredModel]:
    return [model for model in context.registry.models(name) if model.tags.get("loopfm.space") == space_id]


def _expire_closed(context: RunContext) -> int:
    needed = _spaces_of(context, ALIASES) | {RAW_SPACE}
    closed = [space.space_id for space in context.spaces.all() if space not in context.spaces.active()]
    expired = 0
    for space_id in closed:
        if space_id in needed:
            continue
        for step in SPACE_STEPS:
            scope = {"space_id": space_id}
            done = [p for p, e in context.store.ledger.coverage(step.table, scope).items() if e.done]
            if done:
                after = context.dataset.clock.next(done[-1])
                expire(context.store, step.table, scope, after, step.info(context))
                expired += len(done)
    return expired
