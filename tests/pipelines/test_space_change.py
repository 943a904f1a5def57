"""A change of FM: which earlier FMs a new one builds on, which map may serve, and the choice among maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feature_store.clocks import HOUR_MS
from feature_store.spaces import SpaceRecord
from models.alignment import KINDS, Alignment, SpaceCodes, fit_map, save_alignment
from models.codec import pack
from models.errors import SpaceMismatchError
from pipelines.align import ALIGNMENT_ARTIFACTS, ALIGNMENT_FILE, SharedExamples, drift_figures, find_alignment, fit_best
from pipelines.align_choice import NE, best_kind
from pipelines.context import RunContext
from pipelines.fm_chain import fm_chain
from pipelines.space_ways import Way, advice, champion_space, shared_parts, table, ways
from tests.pipelines import loop_world

DIM, DAY = 4, 24 * HOUR_MS


def record(context: RunContext, name: str, cutoff: int, bits: int = 4, **tags: str) -> SpaceRecord:
    """A space and the finished run that made it."""
    made = {"loopfm.kind": "fm", "loopfm.seed": "0", **{f"loopfm.{key}": value for key, value in tags.items()}}
    with context.registry.run(name, f"fm {name}", made) as run_id:
        pass
    space = SpaceRecord(
        name, context.inputs_id, cutoff, 0, context.dataset.heads, DIM, bits, ["mlp.0"], "path", "digest", run_id
    )
    context.spaces.add(space)
    return space


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    patch = pytest.MonkeyPatch()
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = loop_world.context(tmp_path_factory.mktemp("change"))
    assert made.registry.experiment_id
    patch.undo()
    return made


def test_a_new_fm_builds_on_the_newest_chain_of_its_seed(context: RunContext) -> None:
    clock = context.dataset.clock
    last = "2026-01-05"
    days = [clock.start(last) - back * DAY for back in (3, 2, 1, -1)]
    first = record(context, "fm-first", days[0])
    second = record(context, "fm-second", days[1], warm_from="fm-first")
    record(context, "fm-other-seed", days[2], seed="1")
    record(context, "fm-too-late", days[3])
    config = context.config.fm

    def chain(snapshots: int, part: str = last, seed: int = 0) -> list[str]:
        warm = config.model_copy(update={"warm_start": True, "snapshots": snapshots})
        return [space.space_id for space in fm_chain(context, warm, part, seed)]

    assert fm_chain(context, config, last, 0) == []
    assert chain(1) == chain(2) == ["fm-second"]
    assert chain(3) == chain(9) == ["fm-first", "fm-second"]
    assert chain(3, seed=1) == ["fm-other-seed"]
    assert chain(3, part="2026-01-01") == []
    assert (first.state, second.state) == ("active", "active")


def test_the_newest_map_that_was_fitted_before_the_rows_serves_them(context: RunContext, tmp_path: Path) -> None:
    old, new = (record(context, name, 0, seed="9") for name in ("fm-old", "fm-new"))
    clock = context.dataset.clock
    with pytest.raises(SpaceMismatchError, match=r"space fm-new for a model of space fm-old.*no map was fitted"):
        find_alignment(context, new, old, "2026-01-05")
    z = np.random.default_rng(0).normal(size=(20, DIM))
    spaces = SpaceCodes("fm-new", DIM, 4), SpaceCodes("fm-old", DIM, 4)
    for day in ("2026-01-02", "2026-01-04"):
        fitted = Alignment("linear", *spaces, clock.end(day) - 1, fit_map("linear", z, z))
        save_alignment(tmp_path / day / ALIGNMENT_FILE, fitted)
        tags = {"loopfm.kind": "alignment", "loopfm.from_space": "fm-new", "loopfm.to_space": "fm-old"}
        with context.registry.run(day, f"align {day}", tags) as run_id:
            context.registry.log_files(run_id, tmp_path / day, ALIGNMENT_ARTIFACTS)
    assert find_alignment(context, new, old, "2026-01-05").fitted_until == clock.end("2026-01-04") - 1
    assert find_alignment(context, new, old, "2026-01-04").fitted_until == clock.end("2026-01-02") - 1
    with pytest.raises(SpaceMismatchError, match="were fitted on rows up to"):
        find_alignment(context, new, old, "2026-01-02")
    with pytest.raises(SpaceMismatchError, match="no map was fitted"):
        find_alignment(context, old, new, "2026-01-05")


def shared(turn: np.ndarray, rows: int = 1500) -> SharedExamples:
    z = np.tanh(np.random.default_rng(3).normal(size=(rows, DIM)))
    a, b = (pack(values.astype(np.float32), 8) for values in (z, (z @ turn.T).clip(-1, 1)))
    return SharedExamples(a, b, 123, 100)


def spaces() -> tuple[SpaceRecord, SpaceRecord]:
    one = SpaceRecord("fm-a", "in", 0, 0, ["feed"], DIM, 8, ["mlp.0"], "", "", "")
    return one, replace(one, space_id="fm-b")


def test_the_best_map_on_the_newest_examples_is_kept_and_says_how_far_it_has_looked() -> None:
    mix = np.array([[0.5, 0.4, 0, 0], [0, 0.3, 0.6, 0], [0.2, 0, 0, 0.7], [0, 0, 0, 0.9]])
    best, quality = fit_best(shared(mix), *spaces())
    assert set(quality) == set(KINDS)
    assert best.kind == max(quality, key=lambda kind: quality[kind]["r2"])
    assert best.kind != "orthogonal"
    assert quality[best.kind]["r2"] > 0.99
    assert (best.source.space_id, best.target.space_id, best.fitted_until) == ("fm-a", "fm-b", 123)


def test_drift_of_a_turned_space_is_seen_by_values_and_not_by_neighbours() -> None:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(DIM, DIM)))[0] * 0.5
    figures = drift_figures(shared(turn), *spaces())
    assert figures["linear_cka"] > 0.99
    assert figures["neighbour_overlap"] > 0.7
    assert figures["mean_cosine"] < 0.9
    wider = replace(spaces()[1], dim=2 * DIM, bits=4)
    assert set(drift_figures(shared(turn), spaces()[0], wider)) == {"linear_cka", "neighbour_overlap"}


def test_vm_ne_chooses_a_map_and_reconstruction_decides_among_equals() -> None:
    r2 = {"orthogonal": 0.7, "linear": 0.8, "mlp": 0.9}
    plain = {kind: {"r2": value} for kind, value in r2.items()}
    assert best_kind(plain) == "mlp"
    tied = {kind: {"r2": r2[kind], NE: ne} for kind, ne in zip(r2, (0.8, 0.8004, 0.81), strict=True)}
    assert best_kind(tied) == "linear"
    apart = {kind: {**own, NE: own[NE] - 0.01 * (kind == "orthogonal")} for kind, own in tied.items()}
    assert best_kind(apart) == "orthogonal"
    assert best_kind({**apart, "mlp": {"r2": 0.9}}) == "mlp", "one NE is missing: reconstruction alone"


def three(keep: float, align: float, backfill: float | None = None) -> dict[str, Way]:
    known = {} if backfill is None else {"feed": backfill, "shop": backfill}
    return {
        "keep": Way("keep", {"feed": keep, "shop": keep}, part_seconds=12.34),
        "align": Way("align", {"feed": align, "shop": align}, 30_000, 1_000, 20.4, 6.0),
        "backfill": Way("backfill", known, 90_000, 61_000, float("nan"), 6.0),
    }


def test_the_way_that_the_figures_speak_for() -> None:
    assert advice(three(0.9, 0.9004)).startswith("align: VMs of the old space read the new one at +0.0004 NE")
    assert advice(three(0.9, 0.91)) == "keep, until VMs of the new space are better: the map costs 0.0100 NE"
    assert advice(three(0.9, 0.89, 0.88)).startswith("backfill: VMs of the new space are 0.0100 NE better")
    assert advice(three(0.9, 0.89, 0.8897)).startswith("align")
    assert advice({"keep": Way("keep", {"feed": 0.9}), "backfill": Way("backfill")}).startswith("no map to judge")
    assert advice({"keep": Way("keep"), "align": Way("align")}).startswith("no map to judge")


def test_the_ways_stand_side_by_side_with_their_costs() -> None:
    assert table(three(0.9, 0.9004), ["feed", "shop"]) == [
        "way       NE feed  NE shop  FM passes  left    seconds  then, a partition",
        "keep      0.9000   0.9000   0          0       0        12.3",
        "align     0.9004   0.9004   30,000     1,000   20       6.0",
        "backfill  ?        ?        90,000     61,000  ?        6.0",
    ]


def test_what_a_way_costs_is_what_the_ledger_saw(copied: RunContext) -> None:
    old = copied.spaces.active()[0]
    cutoff = copied.dataset.clock.start("2026-01-05")
    new = replace(old, space_id="fm-later", fm_train_cutoff=cutoff)
    assert champion_space(copied) in (None, old)
    assert shared_parts(copied, old, new) == []
    assert shared_parts(copied, old, old) == ["2026-01-05", "2026-01-06", "2026-01-07"]
    found = ways(copied, new, old, None)
    assert set(found) == {"keep", "backfill"}
    rows = {part: entry.rows for part, entry in copied.store.ledger.coverage("examples", {}).items()}
    assert found["backfill"].passes == found["backfill"].left == sum(rows[f"2026-01-0{day}"] for day in (5, 6, 7))
    done = ways(copied, old, old, None)["backfill"]
    assert (done.left, done.passes) == (0, sum(rows[f"2026-01-0{day}"] for day in (4, 5, 6, 7)))
    assert found["keep"].part_seconds == found["backfill"].part_seconds == done.part_seconds > 0
    assert found["backfill"].seconds > 3 * done.part_seconds > done.seconds == 0
