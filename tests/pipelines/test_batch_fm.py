"""An FM of the same size on batch features: trained once, beside the spaces, and what it keeps stands in the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.metrics import Scores
from pipelines.batch_fm import batch_fm_scores
from pipelines.context import RunContext
from pipelines.fm_declaration import batch_fm_dataset, sees_more_than_a_batch
from pipelines.measure import Comparison
from pipelines.train_fm import fm_rows, train_fm
from pipelines.write_range import write_sources
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

TRAIN, VALIDATION, TEST = ["2026-01-01", "2026-01-02"], ["2026-01-03"], ["2026-01-05", "2026-01-06"]
WITH_PAST = ["hour", "category", "user_state", "user_clicks", "item_clicks"]


def rows_of(context: RunContext, parts: list[str]) -> Scores:
    pins = {
        name: context.pin(name, scope, parts)
        for name, scope in (("fm_inputs", {"inputs_id": context.inputs_id}), ("labels", {}))
    }
    rows = fm_rows(context, pins, parts, parts[-1])
    labels = rows.labels.filter(np.asarray(rows.labels["vertical"].to_pylist()) == "feed")
    ids = np.sort(labels["example_id"].to_numpy())
    zero, one = np.zeros(len(ids)), np.ones(len(ids))
    whole = zero.astype(np.int64)
    return Scores(ids, whole, whole, whole.astype(bool), whole, zero, one, one, zero)


def test_the_fm_on_batch_features_is_trained_once_and_opens_no_space(copied: RunContext) -> None:
    context = loop_world.context(Path(copied.root), fm_features=WITH_PAST)
    write_sources(context, [*TRAIN, *VALIDATION], [])
    space = train_fm(context, TRAIN, VALIDATION)
    spaces, versions = context.spaces.all(), context.registry.versions(context.fm_name)
    assert sees_more_than_a_batch(context.dataset)
    scores = batch_fm_scores(context, "feed", space, TEST, like := rows_of(copied, TEST), seed=0)
    runs, inputs = len(context.registry.runs_with({})), context.store.newest("fm_inputs")
    again = batch_fm_scores(loop_world.context(Path(copied.root), fm_features=WITH_PAST), "feed", space, TEST, like, 0)
    assert np.array_equal(scores.p, again.p)
    assert np.array_equal(scores.example_id, like.example_id)
    assert len(np.unique(scores.p)) > 100
    assert (len(context.registry.runs_with({})), context.store.newest("fm_inputs")) == (runs, inputs)
    assert (context.spaces.all(), context.registry.versions(context.fm_name)) == (spaces, versions)


def test_the_fm_on_batch_features_reads_what_vms_could(loop: Loop) -> None:
    context = loop.again(fm_features=WITH_PAST)
    batch = batch_fm_dataset(context.dataset)
    assert batch.fm_clock == "batch"
    assert batch.fm_features == ["hour", "category", "user_clicks", "item_clicks"]
    assert not sees_more_than_a_batch(loop.context.dataset)


def test_ratios_stand_against_what_a_batch_could_carry() -> None:
    rng = np.random.default_rng(0)
    rows, whole = 4_000, np.arange(4_000)
    logit = rng.normal(size=rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-2 * logit))).astype(float)

    def scores(strength: float) -> list[Scores]:
        p = 1 / (1 + np.exp(-strength * logit))
        flags = np.zeros(rows, bool)
        return [Scores(whole, whole % 200, whole, flags, whole, label, np.ones(rows), np.ones(rows), p)]

    arms = {"base": scores(0.0), "loopfm": scores(0.7), "fm": scores(2.0), "batch_fm": scores(1.0)}
    found = {f.metric: f.value for f in Comparison(arms).figures() if f.arm == "loopfm" and f.slice == "all"}
    assert 0 < found["tr"] < found["tr_of_batch_fm"] < 1
    assert "tr_of_visible_state" not in found
    held = Comparison(arms | {"world_state": scores(1.0)}).figures()
    state = {f.metric: f.value for f in held if f.arm == "loopfm" and f.slice == "all"}
    assert state["tr_of_visible_state"] == state["tr_of_batch_fm"]
