"""What the generated world knows of its own rows: the chances that bound any model, as scores beside the arms."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from feature_store.world.truth import world_truth
from models.metrics import Scores
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.measure import WORLD_P, WORLD_STATE, WORLD_VM

BOUNDS = {WORLD_P: "p_true", WORLD_STATE: "p_state", WORLD_VM: "p_vm"}
_KEYS = ["user", "item", "event_ts", "vertical"]


def bound_scores(context: RunContext, vertical: str, like: Scores) -> dict[str, list[Scores]]:
    """Scores of the rows of ``like`` by the true p, by E[p | VM features, newest visible state], by E[p | VM features].

    Empty where the source is no generated world.
    """
    if context.dataset.source.world is None:
        return {}
    clock = context.dataset.clock
    parts = [clock.part_of(int(start)) for start in np.unique(clock.floor(like.event_ts))]
    version = context.pin("examples", {}, parts)
    rows = context.store.arrow("examples", version, {}, parts, ["example_id", "user", "item", "event_ts"])
    rows = rows.append_column("vertical", pa.array([vertical] * len(rows), pa.string()))
    truth = world_truth(context.dataset, parts).group_by(_KEYS).aggregate([(c, "mean") for c in BOUNDS.values()])
    known = rows.join(truth, _KEYS, join_type="inner").combine_chunks()
    ids = known["example_id"].to_numpy()
    order = np.argsort(ids)
    place = order[np.clip(np.searchsorted(ids, like.example_id, sorter=order), 0, len(ids) - 1)]
    if not np.array_equal(ids[place], like.example_id):
        missing = int((ids[place] != like.example_id).sum())
        raise StepError(f"{missing} evaluated rows are none of the world's: was {context.origin} changed after ingest?")
    return {arm: [like.with_p(known[f"{column}_mean"].to_numpy()[place])] for arm, column in BOUNDS.items()}
