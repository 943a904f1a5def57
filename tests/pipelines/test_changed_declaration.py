"""A project that has already run is declared otherwise: what becomes stale, and what the champion's space needs."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from feature_store.spaces import SpaceRecord
from pipelines import cli_steps, cli_verbs, plan
from pipelines.backfill_plan import plan_backfill
from pipelines.context import RunContext
from pipelines.errors import StepError
from pipelines.fm_declaration import FmDeclaration, inputs_context, older_inputs, require_writable
from pipelines.fm_inputs import FM_INPUTS
from pipelines.inspection.coverage import coverage
from pipelines.train_fm import train_fm
from pipelines.train_vm import train_vm
from pipelines.write_range import write_range
from tests.dags.plugin.ledger_world import append
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

DEMO = loop_world.raw_settings()["dataset"]
DAYPART = {"daypart": {"value": "cast(hour / 6 as int)", "kind": "categorical"}}
SPARE = {"name": "spare", "kind": "count", "key": ["user"], "windows": ["1d"]}

AFTER = {
    "examples": ["fm_inputs", "partials", "fm_outputs", "segments", "histories", "features"],
    "labels": ["fm_inputs", "partials", "fm_outputs", "segments", "histories", "features"],
    "fm_inputs": ["fm_outputs", "segments", "histories", "features"],
    "fm_outputs": ["segments", "histories", "features"],
    "segments": ["histories"],
}


def keys(**added: list[str]) -> dict[str, Any]:
    return {"histories": DEMO["histories"] | {"keys": DEMO["histories"]["keys"] | added}}


def feed(**changes: Any) -> dict[str, Any]:
    return {"verticals": DEMO["verticals"] | {"feed": DEMO["verticals"]["feed"] | changes}}


DEVICE = {"features": DEMO["features"] | {"device": {"value": "device + 1", "kind": "categorical"}}}
DECLARED: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "nothing": ({}, set(), set()),
    "L": ({"histories": DEMO["histories"] | {"length": 7}}, {"segments", "histories"}, set()),
    "a key of entities": (keys(pair=["user", "item"]), {"segments", "histories", "features"}, set()),
    "a key of a feature": (
        keys(user_device=["user", "device"]),
        {"fm_outputs", "segments", "histories", "features"},
        set(),
    ),
    "FM features": ({"fm_features": DEMO["fm_features"][:-1]}, set(), {"fm_inputs", "partials"}),
    "an as-of declaration of nobody": ({"as_of": [*DEMO["as_of"], SPARE]}, set(), set()),
    "counters": (feed(counters=["user_clicks"]), {"partials", "features"}, set()),
    "features of a VM": (feed(features=["hour"]), {"features"}, set()),
    "a source column that the FM reads": (DEVICE, {"examples", "labels"}, {"fm_inputs", "partials"}),
    "lag": ({"lag": "2h"}, {"partials", "histories", "features"}, set()),
}


def shown_by(verb: Callable[[Namespace], None], capsys: pytest.CaptureFixture[str]) -> dict[str, set[str]]:
    """State -> tables that a plan or ``status`` names with it; those that only follow from others apart."""
    verb(Namespace(conf="test.yaml", first=loop_world.FIRST, last=loop_world.KNOWN))
    found: dict[str, set[str]] = {"stale": set(), "missing": set(), "is to be written": set()}
    table = ""
    for line in capsys.readouterr().out.replace("nothing is missing or stale\n", "").splitlines():
        table = line.removeprefix("write ").split()[0] if not line.startswith(" ") else table
        follows = "is to be written" in line
        for state in ["is to be written"] if follows else re.findall(r"\b(stale|missing)(?=:|,|$)", line):
            found[state].add(table)
    for table in found["stale"]:
        found["is to be written"].discard(table)
    return found


def assert_shown(
    context: RunContext, stale: set[str], missing: set[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(cli_verbs, "context_of", lambda options: context)
    parts = loop_world.windows(context).parts
    planned = shown_by(lambda options: print(plan_backfill(context, parts, context.spaces.active())), capsys)
    follow = {table for first in stale for table in AFTER.get(first, [])}
    assert planned == {"stale": stale, "missing": missing, "is to be written": follow - stale}
    assert shown_by(cli_verbs.status, capsys) == {"stale": stale, "missing": missing, "is to be written": set()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a project in whose ledger every partition of every table is done."""
    root = tmp_path_factory.mktemp("written")
    context = loop_world.context(root)
    own = space(context, "fm-old", "2026-01-04")
    context.spaces.add(own)
    parts = loop_world.windows(context).parts
    targets = plan.source_targets(context) + plan.space_targets(context, own)
    for target in targets:
        append(context, target, parts, 0, reads=dict.fromkeys({source.table for source in target.upstream}, 0))
    return root


@pytest.mark.parametrize("name", DECLARED)
def test_a_changed_declaration_stales_what_depends_on_it_and_no_more(
    written: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, stale, missing = DECLARED[name]
    assert_shown(loop_world.context(written, **changes), stale, missing, monkeypatch, capsys)


@pytest.mark.parametrize("field", ["embedding_dim", "codec"])
def test_another_fm_or_codec_is_another_space_and_stales_nothing(
    written: Path, field: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context = loop_world.context(written)
    fm = context.config.fm
    other = {"embedding_dim": 4, "codec": fm.codec.model_copy(update={"bits": 8})}[field]
    context.config = context.config.model_copy(update={"fm": fm.model_copy(update={field: other})})
    assert_shown(context, set(), set(), monkeypatch, capsys)


@pytest.mark.parametrize(
    "step", ["EXAMPLES", "LABELS", "FM_INPUTS", "PARTIALS", "FM_OUTPUTS", "SEGMENTS", "HISTORIES", "FEATURES"]
)
def test_a_raised_step_version_stales_its_table(
    written: Path, step: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raised = replace(getattr(plan, step), version=99)
    monkeypatch.setattr(plan, step, raised)
    assert_shown(loop_world.context(written), {raised.table}, set(), monkeypatch, capsys)


def test_fm_inputs_depend_on_features_that_they_carry_for_keys_alone(tmp_path: Path) -> None:
    fewer = {"fm_features": [name for name in DEMO["fm_features"] if name != "device"]}
    plain, of_device, of_hour = (
        FM_INPUTS.info(loop_world.context(tmp_path, **fewer, **added)).definition
        for added in ({}, keys(user_device=["user", "device"]), keys(user_hour=["user", "hour"]))
    )
    assert plain == of_hour != of_device


@pytest.fixture
def before(tmp_path: Path) -> RunContext:
    """A project with an active space of an FM that reads all features, and later partitions than its cutoff."""
    context = loop_world.context(tmp_path)
    context.spaces.add(space(context, "fm-old", "2026-01-03"))
    return context


def space(context: RunContext, name: str, cutoff: str) -> SpaceRecord:
    return SpaceRecord(
        name, context.inputs_id, context.dataset.clock.start(cutoff), 0, context.dataset.heads, 16, 4, ["mlp.0"], "fm",
        "digest", "run", declaration=FmDeclaration.of(context.dataset).model_dump(mode="json"),
    )  # fmt: skip


def test_inputs_of_an_active_space_are_planned_from_its_cutoff_until_it_closes(
    before: RunContext, tmp_path: Path
) -> None:
    after = loop_world.context(tmp_path, fm_features=DEMO["fm_features"][:-1])
    after.spaces.add(space(before, "fm-older", "2026-01-02"))
    after.spaces.add(space(after, "fm-new", "2026-01-04"))
    parts = after.dataset.clock.between("2026-01-01", "2026-01-05")
    writes = {write.label: write.parts for write in plan_backfill(after, parts, after.spaces.active()).writes}
    assert writes[f"fm_inputs {after.inputs_id}"] == parts
    assert writes[f"fm_inputs {before.inputs_id}"] == writes[f"partials {before.inputs_id}"] == parts[1:]
    only_new = {write.label for write in plan_backfill(after, parts, [after.spaces.get("fm-new")]).writes}
    assert f"fm_inputs {before.inputs_id}" not in only_new
    shown = {c.target.label: c for c in coverage(after, after.spaces.active(), parts)}
    assert shown[f"fm_inputs {before.inputs_id}"].counts == {"missing": 4, "outside": 1}
    for name in ("fm-old", "fm-older"):
        after.spaces.close(name)
    assert f"fm_inputs {before.inputs_id}" not in {c.target.label for c in coverage(after, after.spaces.all(), parts)}


@pytest.mark.parametrize("reopened", [False, True])
def test_the_verb_writes_the_inputs_of_active_spaces_too(
    before: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reopened: bool
) -> None:
    after = loop_world.context(tmp_path, fm_features=["surface"])
    monkeypatch.setattr(cli_steps, "context_of", lambda options: after)
    written: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("pipelines.fm_inputs.fm_inputs", lambda of, parts: written.append((of.inputs_id, parts)))
    for first, last in (("2026-01-02", "2026-01-03"), ("2026-01-02", "2026-01-02")):
        cli_steps.fm_inputs(Namespace(conf="test.yaml", first=first, last=last, reopened=reopened))
    if reopened:
        first_day = (after.inputs_id, ["2026-01-02"])
        assert written == [first_day, (before.inputs_id, ["2026-01-03"]), first_day]
    else:
        both = ["2026-01-02", "2026-01-03"]
        assert written == [(after.inputs_id, both), (before.inputs_id, both[1:]), (after.inputs_id, both[:1])]


def test_a_backfill_writes_older_inputs_from_the_cutoff_on_and_before_their_space(
    before: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = loop_world.context(tmp_path, fm_features=["surface"])
    after.spaces.add(space(after, "fm-new", "2026-01-02"))
    days = after.dataset.clock.between("2026-01-02", "2026-01-04")
    steps: list[tuple[str, str, list[str]]] = []
    for name in ("ingest", "segments", "write_histories", "write_features"):
        monkeypatch.setattr(f"pipelines.write_range.{name}", lambda *given: None)
    monkeypatch.setattr("pipelines.write_range.together", lambda _, *writes: [write() for write in writes])
    monkeypatch.setattr(
        "pipelines.write_range.write_fm_inputs", lambda of, parts: steps.append(("fm-inputs", of.inputs_id, parts))
    )
    monkeypatch.setattr(
        "pipelines.write_range.write_partials", lambda of, parts: steps.append(("partials", of.inputs_id, parts))
    )
    monkeypatch.setattr("pipelines.write_range.infer", lambda _, of, parts: steps.append(("infer", of.space_id, parts)))
    write_range(after, days, after.spaces.active())
    assert steps == [
        ("fm-inputs", after.inputs_id, days),
        ("partials", after.inputs_id, days),
        ("fm-inputs", before.inputs_id, days[1:]),
        ("partials", before.inputs_id, days[1:]),
        ("infer", "fm-new", days),
        ("infer", "fm-old", days[1:]),
    ]


def test_an_older_declaration_keeps_its_id_its_columns_and_the_counters_of_now(
    before: RunContext, tmp_path: Path
) -> None:
    old = before.spaces.get("fm-old")
    changes = {"fm_features": ["surface", "item_rows"], "as_of": [*DEMO["as_of"], SPARE]}
    after = loop_world.context(tmp_path, **changes, **feed(counters=["spare"]))
    declared = inputs_context(after, old)
    assert (declared.inputs_id, inputs_context(before, old)) == (before.inputs_id, before)
    assert declared.store.schema("fm_inputs") == before.store.schema("fm_inputs")
    assert [f.name for f in declared.dataset.as_of] == [f.name for f in after.dataset.as_of]
    assert [space.space_id for space in older_inputs(after, [old])] == ["fm-old"]
    require_writable(after, old)


def test_unused_declarations_leave_the_id(before: RunContext, tmp_path: Path) -> None:
    unused = {"as_of": [*DEMO["as_of"], SPARE], "within_impression": {"columns": ["spare_1d"]}}
    assert loop_world.context(tmp_path, impression_id="user_id", **unused).inputs_id == before.inputs_id


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            DEVICE,
            "dataset.features.device was categorical 'device' (known: event), is categorical 'device + 1' (known: "
            "event)",
        ),
        (
            {"features": {n: f for n, f in DEMO["features"].items() if n != "context"}},
            "dataset.features.context was numeric 'context' (known: event), is no longer declared",
        ),
        (
            {"entities": {"user": "user_id", "item": "item_id + 1"}},
            "dataset.entities.item was 'item_id', is 'item_id + 1'",
        ),
    ],
)
def test_inputs_that_the_file_no_longer_gives_name_space_and_field(
    before: RunContext, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    after = loop_world.context(tmp_path, fm_features=["surface"], **changes)
    assert inputs_context(after, before.spaces.get("fm-old")).inputs_id == before.inputs_id
    with pytest.raises(StepError) as caught:
        require_writable(after, before.spaces.get("fm-old"))
    assert str(caught.value) == (
        f"test.yaml: fm_inputs {before.inputs_id} of space fm-old cannot be written: {problem}. Its FM reads what was "
        "declared when it was trained: declare that again beside what is new, under another name where it changed, or "
        "hand its VMs over to a newer space and run `loopfm close-spaces test.yaml`"
    )


def test_a_label_that_an_older_fm_counts_must_stay(tmp_path: Path) -> None:
    before = loop_world.context(tmp_path, fm_features=["user_clicks"])
    labels = {"labels": {"purchase": DEMO["labels"]["purchase"]}, "as_of": [], **feed(label="purchase", counters=[])}
    labels["verticals"]["shop"] = DEMO["verticals"]["shop"] | {"counters": []}
    after = loop_world.context(tmp_path, **labels)
    with pytest.raises(StepError, match=r"as_of.user_clicks.label: got 'click'.*allowed: \['purchase'\]"):
        require_writable(after, space(before, "fm-old", "2026-01-03"))


def test_a_space_without_a_declaration_says_so(before: RunContext, tmp_path: Path) -> None:
    after = loop_world.context(tmp_path, fm_features=["surface"])
    bare = replace(before.spaces.get("fm-old"), declaration={})
    assert plan.older_inputs_targets(after, [bare]) == []
    with pytest.raises(StepError, match="space fm-old cannot be written: the space was opened before spaces kept"):
        require_writable(after, bare)


@pytest.mark.slow
def test_a_project_gains_a_feature_a_key_and_another_fm_beside_its_champion(loop: Loop, copied: RunContext) -> None:
    names = DEMO["verticals"]["feed"]["features"]
    context = loop_world.context(
        Path(copied.root),
        source={"world": loop_world.WORLD | {"days": 9}},
        features=DEMO["features"] | DAYPART,
        fm_features=[*DEMO["fm_features"][:-1], "daypart"],
        **feed(features=[*names, "daypart"]),
        **keys(user_daypart=["user", "daypart"]),
    )
    old, windows = context.spaces.get(loop.result.spaces[0].space_id), loop.result.windows
    write_range(context, windows.parts, [old])
    warm = train_vm(context, "feed", old, windows.vm_train, windows.vm_validation, warm=True)
    assert warm.version is not None
    new = train_fm(context, windows.fm_train, windows.fm_validation)
    assert (new.inputs_id, old.inputs_id) == (context.inputs_id, loop.context.inputs_id)

    day = "2026-01-09"
    write_range(context, [day], context.spaces.active())
    examples = context.store.arrow("examples", context.pin("examples", {}, [day]), {}, [day], ["example_id"])
    for of in (old, new):
        scope = {"space_id": of.space_id}
        for table in ("fm_outputs", "features"):
            rows = context.store.arrow(table, context.pin(table, scope, [day]), scope, [day], ["example_id", "daypart"])
            assert sorted(rows["example_id"].to_pylist()) == sorted(examples["example_id"].to_pylist())
        segments = context.store.arrow("segments", context.pin("segments", scope, [day]), scope, [day], ["key"])
        assert "user_daypart" in pc.unique(segments["key"]).to_pylist()
    for of, empty in ((old, 0), (new, len(examples))):
        scope, store = {"inputs_id": of.inputs_id}, inputs_context(context, old).store
        rows = store.arrow("fm_inputs", context.pin("fm_inputs", scope, [day]), scope, [day], ["context", "daypart"])
        assert (rows["context"].null_count, rows["daypart"].null_count) == (empty, 0)
    states = {c.target.label: c for c in coverage(context, context.spaces.active(), [day])}
    assert all(set(found.counts) == {"done"} for found in states.values())
