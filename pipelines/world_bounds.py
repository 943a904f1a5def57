"""What the generated world knows of its own rows: the chances that bound any model, as scores beside the arms."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from feature_store.world.truth import vm_reads_the_worlds_features, world_truth, world_vertical
from models.metrics import Scores, places_of
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.measure import WORLD_P, WORLD_STATE, WORLD_VM

BOUNDS = {WORLD_P: "p_true", WORLD_STATE: "p_state", WORLD_VM: "p_vm"}
_KEYS = ["user", "item", "event_ts", "vertical"]


def bound_scores(context: RunContext, vertical: str, like: Scores) -> dict[str, list[Scores]]:
    """Scores of the rows of ``like`` by the true p, by E[p | VM features, newest visible state], by E[p | VM features].

    Empty where the source is no generated world, or the vertical's rows are none of its own; the true p alone where the
    vertical's VM sees other features than those two stand for. A progress line says what is left out.
    """
    dataset = context.dataset
    if dataset.source.world is None:
        return {}
    own = world_vertical(dataset, vertical)
    if own is None:
        context.progress(
            f"evaluate: {vertical}: the world's bounds are left out: they need its own label (click or purchase), "
            "user_id, item_id and event_ms as they stand"
        )
        return {}
    bounds = BOUNDS
    if not vm_reads_the_worlds_features(dataset, vertical):
        context.progress(
            f"evaluate: {vertical}: the bounds of the VM's features are left out: they stand for hour, segment, "
            f"category, device and the placements that a world has, the VM sees {dataset.verticals[vertical].features}"
        )
        bounds = {WORLD_P: BOUNDS[WORLD_P]}
    known = _truth(context, own, like)
    return {arm: [like.with_p(known[f"{column}_mean"].to_numpy())] for arm, column in bounds.items()}


def _truth(context: RunContext, own: str, like: Scores) -> pa.Table:
    """The world's chances of the rows of ``like``, in their order."""
    clock = context.dataset.clock
    parts = [clock.part_of(int(start)) for start in np.unique(clock.floor(like.event_ts))]
    version = context.pin("examples", {}, parts)
    rows = context.store.arrow("examples", version, {}, parts, ["example_id", "user", "item", "event_ts"])
    rows = rows.append_column("vertical", pa.array([own] * len(rows), pa.string()))
    truth = world_truth(context.dataset, parts).group_by(_KEYS).aggregate([(c, "mean") for c in BOUNDS.values()])
    known = rows.join(truth, _KEYS, join_type="inner").combine_chunks()
    ids = known["example_id"].to_numpy()
    missing = int((~np.isin(like.example_id, ids)).sum())
    if missing:
        raise StepError(f"{missing} evaluated rows are none of the world's: was {context.origin} changed after ingest?")
    return known.take(pa.array(places_of(ids, like.example_id)))
