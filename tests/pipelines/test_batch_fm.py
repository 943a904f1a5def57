"""An FM of the same size on batch features: trained once, beside the spaces, and what it keeps stands in the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feature_store.spaces import SpaceRecord
from models.config import ExternalFmConfig
from models.errors import ArtifactError
from models.fm_score import FmScorer
from models.metrics import Scores
from pipelines.batch_fm import BatchFm, batch_fm_scores
from pipelines.context import RunContext
from pipelines.digest import digest
from pipelines.errors import StepError
from pipelines.evaluate import compare_arms
from pipelines.fm_declaration import FmDeclaration, has_batch_fm
from pipelines.fm_model import trained_settings
from pipelines.measure import Comparison
from pipelines.run_plots import PLOT_ARTIFACTS
from pipelines.train_fm import fm_rows, train_fm
from pipelines.write_range import write_sources
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

TRAIN, VALIDATION, TEST = ["2026-01-01", "2026-01-02"], ["2026-01-03"], ["2026-01-05", "2026-01-07"]
"""Of the test window the partitions that hold labels: there is a gap between them."""
DEMO = loop_world.raw_settings()["dataset"]
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


def with_fm(context: RunContext, **changes: object) -> RunContext:
    """The project after its fm block was changed."""
    context.config = context.config.model_copy(update={"fm": context.config.fm.model_copy(update=changes)})
    return context


def test_the_fm_on_batch_features_is_trained_once_and_opens_no_space(
    copied: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = loop_world.context(Path(copied.root), fm_features=WITH_PAST)
    write_sources(context, [*TRAIN, *VALIDATION], [])
    space = train_fm(context, TRAIN, VALIDATION)
    spaces, versions = context.spaces.all(), context.registry.versions(context.fm_name)
    scores = batch_fm_scores(context, "feed", {0: space}, TEST, [like := rows_of(copied, TEST)])[0]
    assert np.array_equal(scores.example_id, like.example_id)
    assert len(np.unique(scores.p)) > 100
    beside = BatchFm.beside(context, space)
    assert beside is not None
    written = beside.context.store.ledger.coverage("fm_inputs", {"inputs_id": beside.context.inputs_id})
    assert sorted(written) == [*TRAIN, *VALIDATION, *beside.context.dataset.clock.between(TEST[0], TEST[-1])]
    runs, inputs = len(context.registry.runs_with({})), context.store.newest("fm_inputs")
    later = with_fm(loop_world.context(Path(copied.root)), embedding_dim=5)
    with monkeypatch.context() as patch:
        patch.setattr(FmScorer, "score", lambda *_: pytest.fail("one pass gives the logits of all heads"))
        again, other = (batch_fm_scores(later, head, {0: space}, TEST, [like])[0] for head in ("feed", "shop"))
    assert np.array_equal(scores.p, again.p), "neither changed fm_features nor a changed fm block concern this space"
    assert not np.array_equal(other.p, again.p)
    assert (len(context.registry.runs_with({})), context.store.newest("fm_inputs")) == (runs, inputs)
    assert (context.spaces.all(), context.registry.versions(context.fm_name)) == (spaces, versions)
    its_run_says_all_of_the_training(beside)


def its_run_says_all_of_the_training(beside: BatchFm) -> None:
    context, (run,) = beside.context, beside.context.registry.runs_with({"loopfm.kind": "batch-fm"})
    pins = {"fm_inputs": {"inputs_id": context.inputs_id}, "labels": {}}
    wanted = {f"loopfm.version.{table}": str(context.pin(table, pins[table], [*TRAIN, *VALIDATION])) for table in pins}
    wanted |= {"loopfm.train": "2026-01-01..2026-01-02", "loopfm.validation": "2026-01-03..2026-01-03"}
    wanted |= {"loopfm.compared_space": beside.space.space_id, "loopfm.config": digest(context.config)}
    assert {name: run.data.tags.get(name) for name in wanted} == wanted
    assert context.registry.curve(run.info.run_id, "epoch_validation_ne") == [run.data.metrics["validation_ne"]]
    plots = [file.path for file in context.registry.client.list_artifacts(run.info.run_id, PLOT_ARTIFACTS)]
    assert plots == [f"{PLOT_ARTIFACTS}/learning_curve.svg"]
    assert not list((context.scratch / "batch-fm").iterdir())
    context.registry.client.set_tag(run.info.run_id, "loopfm.model_digest", "0" * 64)
    with pytest.raises(ArtifactError, match=f"digest is .*, {'0' * 64} was recorded"):
        beside.scores("feed", TEST, rows_of(context, TEST), 0)


def test_what_the_space_was_declared_with_decides_whether_one_stands_beside_it(loop: Loop) -> None:
    space, context = loop.result.spaces[0], loop.again(fm_features=WITH_PAST)
    assert has_batch_fm(context.dataset, context.config.fm)
    assert BatchFm.beside(context, space) is None, "its FM reads no as-of column"
    declared = FmDeclaration.of(context.dataset)
    other = replace(space, inputs_id=declared.inputs_id, declaration=declared.model_dump(mode="json"))
    beside = BatchFm.beside(with_fm(loop.again(), embedding_dim=5), other)
    assert beside is not None
    assert beside.context.config.fm == loop.context.config.fm
    assert (beside.train, beside.validation) == (loop.result.windows.fm_train, loop.result.windows.fm_validation)
    assert beside.context.dataset.fm_clock == "batch"
    assert beside.context.dataset.fm_features == ["hour", "category", "user_clicks", "item_clicks"]
    gone = loop.again(features=DEMO["features"] | {"hour": DEMO["features"]["hour"] | {"value": "hour + 1"}})
    with pytest.raises(StepError, match=rf"space {space.space_id} cannot be written: dataset\.features\.hour was"):
        BatchFm.beside(gone, other)


def test_an_fm_that_is_external_or_reads_closed_partitions_has_none_beside_it(loop: Loop) -> None:
    event, fm = loop.again(fm_features=WITH_PAST).dataset, loop.context.config.fm
    assert has_batch_fm(event, fm)
    assert not has_batch_fm(loop.context.dataset, fm)
    assert not has_batch_fm(loop.again(fm_features=WITH_PAST, fm_clock="batch").dataset, fm)
    external = ExternalFmConfig(load="own:load", checkpoint="own.pt", trained_until="2026-01-01")
    assert not has_batch_fm(event, fm.model_copy(update={"external": external}))


def test_recorded_settings_that_no_version_knows_name_the_run(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    context, space = loop.again(), loop.result.spaces[0]
    assert trained_settings(context, space) == loop.context.config.fm

    def fetched(run_id: str, artifact_path: str, folder: Path) -> Path:
        (folder / "config.json").write_text('{"depth": 3}')
        return folder / "config.json"

    monkeypatch.setattr(context.registry, "fetch_run_files", fetched)
    wanted = (
        rf"(?s)run {space.run_id} of space {space.space_id}: fm/config\.json holds no settings.*depth.*`loopfm train-fm"
    )
    with pytest.raises(StepError, match=wanted):
        trained_settings(context, space)


def test_a_comparison_has_the_arm_where_there_is_one_and_bounds_for_every_seed(
    loop: Loop, copied: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "batch_fm" not in {figure.arm for figures in loop.result.figures.values() for figure in figures}
    own = [vm for vm in loop.result.trained if vm.vertical == "feed" and vm.arm in ("base", "loopfm")]
    asked: list[dict[int, SpaceRecord]] = []

    def like_the_fm(
        context: RunContext, vertical: str, spaces: dict[int, SpaceRecord], parts: list[str], likes: list[Scores]
    ) -> list[Scores]:
        asked.append(spaces)
        return likes

    monkeypatch.setattr("pipelines.evaluate.batch_fm_scores", like_the_fm)
    monkeypatch.setattr("pipelines.evaluate.log_plots", lambda *plots: None)
    windows = [loop.result.windows.vm_train, loop.result.windows.test]
    figures = compare_arms(copied, "feed", [*own, *(replace(vm, seed=1) for vm in own)], windows)
    assert asked == [dict.fromkeys([0, 1], loop.result.spaces[0])]
    nes = {(f.arm, f.seed) for f in figures if f.metric == "ne" and f.slice == "all"}
    arms = {"base", "loopfm", "fm", "batch_fm", "world_p", "world_state", "world_vm"}
    assert nes == {(arm, seed) for arm in arms for seed in (None, 0, 1)}


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
