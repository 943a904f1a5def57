"""Which of a generated world's bounds stand beside the arms of a vertical, and that they are its own rows' chances."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_store.config import DatasetConfig
from feature_store.world.truth import world_truth
from models.metrics import Scores
from pipelines.errors import StepError
from pipelines.world_bounds import bound_scores
from tests.pipelines import loop_world
from tests.pipelines.report_world import scores

PARTS = ["2026-01-02", "2026-01-03"]
DEMO = loop_world.raw_settings()["dataset"]


@dataclass
class Evaluating:
    """The part of a run context that the bounds read: examples are the world's own rows, ids their places."""

    dataset: DatasetConfig
    origin: str = "test.yaml"
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.truth = world_truth(self.dataset, PARTS)
        self.store = SimpleNamespace(arrow=lambda *_: self.examples)
        self.progress = self.lines.append

    def pin(self, *_: Any) -> int:
        return 0

    @property
    def examples(self) -> pa.Table:
        ids = pa.array(np.arange(len(self.truth)))
        return self.truth.select(["user", "item", "event_ts"]).append_column("example_id", ids)

    def evaluated(self, own: str) -> Scores:
        """Rows of the world's vertical ``own``, as an arm scored them."""
        at = np.flatnonzero(np.array(self.truth["vertical"]) == own)[::-1].copy()
        like = scores(0.5, rows=len(at))
        return Scores(**vars(like) | {"example_id": at, "event_ts": self.truth["event_ts"].to_numpy()[at]})

    def bounds(self, vertical: str, like: Scores) -> dict[str, list[Scores]]:
        return bound_scores(self, vertical, like)  # type: ignore[arg-type]


def evaluating(**verticals: tuple[str, dict[str, Any]]) -> Evaluating:
    base = {name: vertical | {"counters": []} for name, vertical in DEMO["verticals"].items()}
    own = {name: base[like] | changes for name, (like, changes) in verticals.items()}
    return Evaluating(loop_world.settings(verticals=own, as_of=[]).dataset)


def test_a_vertical_has_the_bounds_of_its_label_whatever_its_name() -> None:
    context = evaluating(
        news=("feed", {}), checkout=("shop", {"features": ["device", "hour", "segment", "category", "surface"]})
    )
    for vertical, own in (("news", "feed"), ("checkout", "shop")):
        like = context.evaluated(own)
        bounds = context.bounds(vertical, like)
        for arm, column in {"world_p": "p_true", "world_state": "p_state", "world_vm": "p_vm"}.items():
            assert np.array_equal(bounds[arm][0].p, context.truth[column].to_numpy()[like.example_id])
    assert context.lines == []


def test_the_bounds_of_other_features_are_left_out_with_a_line() -> None:
    context = evaluating(feed=("feed", {"features": ["hour", "user"]}), shop=("shop", {}))
    assert list(context.bounds("feed", context.evaluated("feed"))) == ["world_p"]
    assert "the VM sees ['hour', 'user']" in context.lines[0]


def test_a_world_with_placements_has_bounds_where_the_vm_sees_them() -> None:
    placement = {"placement": {"value": "placement", "kind": "categorical"}}
    verticals = {
        name: vertical | {"counters": [], "features": vertical["features"] + ["placement"] * (name == "feed")}
        for name, vertical in DEMO["verticals"].items()
    }
    world = {"world": loop_world.WORLD | {"placements": 30}}
    changes = {"source": world, "features": DEMO["features"] | placement, "verticals": verticals, "as_of": []}
    context = Evaluating(loop_world.settings(**changes).dataset)
    assert set(context.bounds("feed", context.evaluated("feed"))) == {"world_p", "world_state", "world_vm"}
    assert set(context.bounds("shop", context.evaluated("shop"))) == {"world_p"}


def test_rows_that_are_not_the_worlds_have_no_bounds() -> None:
    labels = DEMO["labels"] | {"click": {"value": "coalesce(click, purchase)"}}
    context = Evaluating(loop_world.settings(labels=labels).dataset)
    assert context.bounds("feed", context.evaluated("feed")) == {}
    assert "need its own label (click or purchase)" in context.lines[0]


def test_another_world_than_was_ingested_is_an_error() -> None:
    context = evaluating(feed=("feed", {}), shop=("shop", {}))
    like = context.evaluated("shop")
    with pytest.raises(StepError, match=rf"{len(like)} evaluated rows are none of the world's: was test.yaml changed"):
        context.bounds("feed", like)
