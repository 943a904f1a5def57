"""Figures of what an FM is worth that need scores: the gain's parts, losses by the age of histories, the codec's share.

Parts of the gain: method section 1. A run measures them where it compares raw and FM tokens together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_store.clocks import DAY_MS, HOUR_MS
from feature_store.spaces import SpaceRecord
from models.metrics import Scores, entropy, log_loss, places_of
from pipelines.context import RunContext
from pipelines.measure import FM_ARM, Figure
from pipelines.scoring import labelled_rows
from pipelines.vectors import packed_codes, vectors

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BOTH_ARM = "raw_loopfm"
CODE_ARM = "fm_code"
"""The FM's chance as a linear readout of its own code tells it."""
AGE_SLICE = "newest token: "
LOST = "lost"
AGES: Mapping[str, tuple[int, int]] = {
    "under 1 h": (0, HOUR_MS),
    "1 to 6 h": (HOUR_MS, 6 * HOUR_MS),
    "6 h to 1 d": (6 * HOUR_MS, DAY_MS),
    "over 1 d": (DAY_MS, 2**62),
}
NO_TOKEN = "none"
READOUT_ROWS, READOUT_STEPS, READOUT_RIDGE = 200_000, 25, 1e-3


def age_slices(
    context: RunContext, vertical: str, space: SpaceRecord, parts: list[str], keys: Sequence[str]
) -> dict[str, Ints]:
    """Example ids by the age of the newest FM token that any of ``keys`` lets an example read; every row is in one."""
    columns = ["example_id", "event_ts", "as_of", *(f"key_{key}" for key in keys)]
    rows = labelled_rows(context, vertical, space, parts, columns)
    ids, event_ts = rows["example_id"].to_numpy(), rows["event_ts"].to_numpy()
    newest = np.max([_newest(context, space, parts, key, rows) for key in keys], axis=0)
    age = np.where(newest < 0, -1, event_ts - newest)
    masks = {NO_TOKEN: age < 0} | {name: (age >= low) & (age < high) for name, (low, high) in AGES.items()}
    return {f"{AGE_SLICE}{name}": ids[mask] for name, mask in masks.items() if mask.any()}


def _newest(context: RunContext, space: SpaceRecord, parts: list[str], key: str, rows: pa.Table) -> Ints:
    """event_ts of the newest token of each row's history, -1 without one: [N]."""
    scope = {"space_id": space.space_id}
    pinned = context.pin("histories", scope, parts)
    stored = context.store.arrow("histories", pinned, scope, parts, ["key", "key_id", "as_of", "event_ts"])
    stored = stored.filter(pc.equal(stored["key"], key))
    known = pa.table(
        {
            "key_id": stored["key_id"],
            "as_of": stored["as_of"],
            "newest": pc.list_element(stored["event_ts"], 0),
        }
    )
    known = known.group_by(["key_id", "as_of"]).aggregate([("newest", "max")])
    wanted = pa.table({"place": np.arange(len(rows)), "key_id": rows[f"key_{key}"], "as_of": rows["as_of"]})
    found = wanted.join(known, ["key_id", "as_of"], join_type="left outer").sort_by("place")
    return np.asarray(pc.fill_null(found["newest_max"], -1).to_numpy())


def lost_figures(arms: Mapping[str, Sequence[Scores]], slices: Mapping[str, Ints]) -> Iterator[Figure]:
    """What each arm loses against the FM on each slice, in NE of all rows: over slices that part the rows it adds up.

    lost = sum over the slice of weight * (loss of the arm - loss of the FM) / (all rows' weight * entropy).
    """
    for arm, scores in arms.items():
        if arm == FM_ARM:
            continue
        losses = [_excess(own, fm) for own, fm in zip(scores, arms[FM_ARM], strict=False)]
        for name, members in slices.items():
            masks = [np.isin(own.example_id, members) for own in scores]
            value = np.mean([loss[mask].sum() for loss, mask in zip(losses, masks, strict=False)])
            yield Figure(arm, name, LOST, float(value), int(masks[0].sum()))


def _excess(own: Scores, fm: Scores) -> Floats:
    rate = float((own.weight * own.label).sum() / own.weight.sum())
    excess = own.weight * (log_loss(own.label, own.p) - log_loss(fm.label, fm.p))
    return np.asarray(excess / (own.weight.sum() * float(entropy(rate))))


def code_scores(
    context: RunContext, vertical: str, space: SpaceRecord, windows: tuple[list[str], list[str]], like: Scores
) -> Scores:
    """Scores of the FM as its code alone tells them, on the rows of ``like``.

    A logistic readout of z, fitted to the FM's chances over the VM's training window. What it misses, codec or
    captured layer may have lost; a reader that is not linear can find more, never the codec less.

    Args:
        context: the project.
        vertical: which head of the FM.
        space: whose codes.
        windows: partitions of the VM's training and of the test.
        like: rows to score.
    """
    head = space.heads.index(vertical)
    z, logit, _ = _outputs(context, space, windows[0], head)
    weights = readout(z[-READOUT_ROWS:], 1 / (1 + np.exp(-logit[-READOUT_ROWS:])))
    z, _, ids = _outputs(context, space, windows[1], head)
    z = z[places_of(ids, like.example_id)]
    return like.with_p(1 / (1 + np.exp(-(z @ weights[1:] + weights[0]))))


def readout(z: Floats, p: Floats) -> Floats:
    """Weights [1 + dim], the constant first, of the logistic regression of chances ``p`` [N] on ``z`` [N, dim]."""
    x = np.concatenate([np.ones((len(z), 1)), z], axis=1)
    weights = np.zeros(x.shape[1])
    mean = float(np.clip(p.mean(), 1e-6, 1 - 1e-6))
    weights[0] = np.log(mean / (1 - mean))
    for _ in range(READOUT_STEPS):
        own = 1 / (1 + np.exp(-(x @ weights)))
        hessian = (x * (own * (1 - own))[:, None]).T @ x + READOUT_RIDGE * np.eye(x.shape[1])
        step = np.linalg.solve(hessian, x.T @ (p - own))
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def _outputs(context: RunContext, space: SpaceRecord, parts: list[str], head: int) -> tuple[Floats, Floats, Ints]:
    scope = {"space_id": space.space_id}
    pinned = context.pin("fm_outputs", scope, parts)
    rows = context.store.arrow("fm_outputs", pinned, scope, parts, ["example_id", "z", "logits"])
    logit = pc.list_element(rows["logits"], head).to_numpy().astype(np.float64)
    return vectors(packed_codes(rows, space), space), logit, rows["example_id"].to_numpy()
