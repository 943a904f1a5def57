"""What becomes of spaces and versions when a hand-over is cut off, cleared, rejected or takes long."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from feature_store.ledger import DONE
from feature_store.spaces import SpaceRecord
from pipelines import promote as promote_step
from pipelines.cli_operate import gate
from pipelines.context import RunContext
from pipelines.errors import GateError, StepError
from pipelines.evaluate import Evaluated, record
from pipelines.features import FEATURES, HISTORIES
from pipelines.gate import GateResult
from pipelines.ingest import EXAMPLES, LABELS
from pipelines.live import LIVE_ARM, _calibration
from pipelines.maturity import readable_parts
from pipelines.measure import ALL_ROWS, Figure
from pipelines.orchestration.windows import _require_declared
from pipelines.promote import _move, judge, promote
from pipelines.registry import CHALLENGER, CHAMPION, ROLLBACK, RegisteredModel
from pipelines.step import Scope, TableStep
from pipelines.upkeep import close_spaces, pinned_versions
from tests.pipelines import loop_world

OLD, NEW = "fm-old", "fm-new"
DAYS = ["2026-01-05", "2026-01-06", "2026-01-07"]


@dataclass
class Registry:
    """A registry in memory: versions by name, aliases of one vertical."""

    versions: dict[str, RegisteredModel] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    experiment_id: str = "7"

    def add(self, version: str, space: str, until: str, **tags: str) -> RegisteredModel:
        own = {"loopfm.space": space, "loopfm.trained_until": until, **{f"loopfm.{k}": v for k, v in tags.items()}}
        self.versions[version] = RegisteredModel("loopfm-demo-feed", version, f"run-{version}", own)
        return self.versions[version]

    def by_alias(self, name: str, alias: str) -> RegisteredModel | None:
        return self.versions.get(self.aliases.get(alias, "")) if name.endswith("-feed") else None

    def by_version(self, name: str, version: str) -> RegisteredModel:
        return self.versions[version]

    def models(self, name: str) -> list[RegisteredModel]:
        return list(self.versions.values()) if name.endswith("-feed") else []

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self.aliases[alias] = version

    def tag_version(self, name: str, version: str, tags: dict[str, str]) -> None:
        model = self.versions[version]
        self.versions[version] = replace(model, tags={**model.tags, **tags})


@pytest.fixture
def registry() -> Registry:
    """The champion, version 1, reads the old space."""
    made = Registry()
    made.add("1", OLD, DAYS[1])
    made.aliases[CHAMPION] = "1"
    return made


@pytest.fixture
def context(tmp_path: Path, registry: Registry) -> RunContext:
    made = loop_world.context(tmp_path)
    made.__dict__["registry"] = registry
    heads = made.dataset.heads
    for opened_at, name in enumerate((OLD, NEW)):
        made.spaces.add(SpaceRecord(name, made.inputs_id, 0, 0, heads, 16, 4, [], "", "", "", opened_at=opened_at))
    return made


def done(context: RunContext, step: TableStep, scope: Scope, parts: list[str], version: int = 0) -> None:
    """Finished attempts at ``parts``."""
    attempt = context.store.begin(step.table, scope, parts, step.info(context), {})
    entries = [replace(entry, state=DONE, version_written=version, rows=1) for entry in attempt.entries(DONE)]
    context.store.ledger.append(entries)


def active(context: RunContext) -> list[str]:
    return [space.space_id for space in context.spaces.active()]


def test_an_offered_space_stays_until_the_gate_has_judged_a_vm_of_it(context: RunContext, registry: Registry) -> None:
    assert close_spaces(context, offered=NEW) == [], "its backfill failed: the run may be cleared and go on"
    registry.add("2", NEW, DAYS[1])
    assert close_spaces(context, offered=NEW) == [], "its evaluation failed"
    registry.tag_version("", "2", {"loopfm.gate": "failed"})
    assert close_spaces(context, offered=NEW) == [NEW]
    assert active(context) == [OLD]


def test_an_offered_space_stays_while_another_vertical_may_still_take_it(
    context: RunContext, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("2", NEW, DAYS[1], gate="failed")
    shop = Registry()
    shop.add("1", OLD, DAYS[1])
    shop.aliases[CHAMPION] = "1"
    both = {context.vm_name("feed"): registry, context.vm_name("shop"): shop}
    monkeypatch.setattr(context.registry, "by_alias", lambda name, alias: Registry.by_alias(both[name], "-feed", alias))
    monkeypatch.setattr(context.registry, "models", lambda name: list(both[name].versions.values()))
    assert close_spaces(context, offered=NEW) == [], "the training of shop failed: the run may be cleared and go on"
    shop.add("2", NEW, DAYS[1], gate="hold")
    assert close_spaces(context, offered=NEW) == [NEW]


def test_what_a_person_may_still_approve_stays_pinned_when_the_next_training_is_the_challenger(
    context: RunContext, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = {"run-2": {"loopfm.version.features": "5"}, "run-3": {"loopfm.version.features": "4"}}
    monkeypatch.setattr(registry, "run_tags", lambda run_id: tags.get(run_id, {}), raising=False)
    registry.add("2", NEW, DAYS[1], gate="hold")
    registry.add("3", NEW, DAYS[1], gate="failed")
    assert pinned_versions(context) == {"features": {5}}
    registry.tag_version("", "2", {"loopfm.gate": "failed"})
    assert pinned_versions(context) == {}
    registry.tag_version("", "2", {"loopfm.gate": "passed"})
    context.spaces.close(NEW)
    assert pinned_versions(context) == {}


def test_the_newer_of_two_spaces_of_one_window_is_kept_while_nobody_names_it(context: RunContext) -> None:
    context.spaces.add(replace(context.spaces.get(NEW), space_id="fm-a", opened_at=2))
    assert close_spaces(context) == [NEW]
    assert set(active(context)) == {OLD, "fm-a"}


def test_a_champion_is_never_left_in_a_space_that_nothing_writes(context: RunContext, registry: Registry) -> None:
    lines: list[str] = []
    context.progress = lines.append
    context.spaces.close(NEW)
    _move(context, "loopfm-demo-feed", registry.add("2", NEW, DAYS[1]), registry.versions["1"])
    assert active(context) == [OLD, NEW]
    assert registry.aliases == {CHAMPION: "2", ROLLBACK: "1"}
    assert (
        f"space {NEW} was closed and is written again from now on: `loopfm backfill test.yaml --from PART" in lines[0]
    )
    _move(context, "loopfm-demo-feed", registry.versions["1"], registry.versions["2"])
    assert len(lines) == 3, "nothing to say of a space that is active"


@pytest.mark.parametrize("measured", ["passed", "failed"])
def test_a_hand_over_that_took_longer_than_a_training_waits_for_a_person(
    measured: str, context: RunContext, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = GateResult(measured, ["as measured"], {})  # type: ignore[arg-type]
    monkeypatch.setattr(promote_step, "_measure", lambda *of: ([DAYS[2]], figures))
    registry.add("2", NEW, DAYS[0])
    if measured == "failed":
        with pytest.raises(GateError, match="version 2: failed: as measured"):
            judge(context, "feed", "2")
        return
    verdict = judge(context, "feed", "2")[1]
    assert verdict.verdict == "hold"
    assert verdict.reasons == [f"it was trained until {DAYS[0]}, the champion until {DAYS[1]}", "as measured"]
    registry.add("3", OLD, DAYS[0])
    with pytest.raises(GateError, match="older data never replaces newer"):
        judge(context, "feed", "3")


def test_a_verdict_is_on_the_champion_that_would_be_replaced(
    context: RunContext, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    rivals: list[str] = []

    def measure(
        of: RunContext, vertical: str, challenger: RegisteredModel, champion: RegisteredModel
    ) -> tuple[list[str], GateResult]:
        rivals.append(champion.version)
        registry.aliases[CHAMPION] = "2"  # another Dag promotes meanwhile
        return [DAYS[2]], GateResult("passed", [f"better than {champion.version}"], {})

    monkeypatch.setattr(promote_step, "_measure", measure)
    for version in ("2", "3"):
        registry.add(version, OLD, DAYS[1])
    assert promote(context, "feed", "3").reasons == ["better than 2"]
    assert rivals == ["1", "2"]
    assert registry.aliases == {CHAMPION: "3", ROLLBACK: "2"}


def test_a_partition_that_lacks_a_table_keeps_no_other_from_being_read(context: RunContext) -> None:
    own, raw = {"space_id": OLD}, {"space_id": "raw"}
    assert readable_parts(context, OLD) == []
    for step, scope in ((FEATURES, own), (HISTORIES, own), (HISTORIES, raw), (LABELS, {})):
        done(context, step, scope, DAYS)
    assert readable_parts(context, OLD) == DAYS
    for step, scope, part in ((HISTORIES, own, DAYS[0]), (LABELS, {}, DAYS[2])):
        attempt = context.store.begin(step.table, scope, [part], step.info(context), {})
        context.store.fail(attempt, "a lost process")
    assert readable_parts(context, OLD) == [DAYS[1]]


def test_nothing_is_trained_on_rows_of_two_definitions(context: RunContext) -> None:
    own = {"space_id": OLD}
    for step, scope in ((EXAMPLES, {}), (LABELS, {}), (HISTORIES, own)):
        done(context, step, scope, DAYS)
    _require_declared(context, "a VM of feed", DAYS, [(HISTORIES, own)])
    histories = context.dataset.histories.model_copy(update={"length": 9})
    dataset = context.dataset.model_copy(update={"histories": histories})
    context.config = context.config.model_copy(update={"dataset": dataset})
    done(context, HISTORIES, own, DAYS[2:], version=1)
    with pytest.raises(StepError) as error:
        _require_declared(context, "a VM of feed", DAYS, [(HISTORIES, own)])
    assert str(error.value) == (
        f"a VM of feed needs histories {OLD} of {DAYS[0]} .. {DAYS[2]} as it is declared now: settings or the step's "
        f"version have changed since 2 of them were written, {DAYS[0]} the first; run `loopfm backfill test.yaml "
        f"--from {DAYS[0]}`"
    )


def test_the_calibration_of_a_replaced_champion_alarms_nobody(context: RunContext, registry: Registry) -> None:
    of = (LIVE_ARM, 0)
    for version, value in (("1", 9.0), ("2", 1.0)):
        evaluated = Evaluated("feed", [DAYS[2]], OLD, {of: f"run-{version}"}, {of: version})
        record(context, evaluated, [Figure(LIVE_ARM, ALL_ROWS, "calibration", value, 10)], {})
    assert [alarm.part for alarm in _calibration(context, DAYS[2])] == [DAYS[2]]
    registry.add("2", OLD, DAYS[1])
    registry.aliases |= {CHAMPION: "2", CHALLENGER: "2"}
    assert _calibration(context, DAYS[2]) == []


def test_the_gate_tells_where_the_run_of_its_challenger_is(
    context: RunContext, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = registry.versions["1"], GateResult("passed", ["in its band"], {})
    monkeypatch.setattr("pipelines.promote.judge", lambda *of: verdict)
    monkeypatch.setattr("pipelines.cli_operate.context_of", lambda options: context)
    facts = gate(Namespace(vertical="feed", version="1"))
    assert facts is not None
    assert (facts["run_id"], facts["experiment"], facts["verdict"]) == ("run-1", "7", "passed")
