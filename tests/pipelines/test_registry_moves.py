"""What moves in the registry: a second version, the gate, aliases, the way back; and trainings that are tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.compute as pc
import pytest

from pipelines import train_fm as train_fm_step
from pipelines import train_vm as train_vm_step
from pipelines.cli import main
from pipelines.context import RunContext
from pipelines.errors import GateError, StepError
from pipelines.evaluate import evaluate
from pipelines.promote import judge, promote, rollback
from pipelines.registry import CHALLENGER, CHAMPION, IDEMPOTENCY_TAG, ROLLBACK
from pipelines.train_fm import fm_training, train_fm
from pipelines.train_vm import TrainedVm, train_vm, vm_training
from tests.pipelines.conftest import Loop

VERTICAL = "feed"
ANY_DIFFERENCE = {"margin": 10.0, "gauc_margin": 1.0}


def train(context: RunContext, loop: Loop, seed: int) -> TrainedVm:
    windows = loop.result.windows
    return train_vm(context, VERTICAL, context.space(), windows.vm_train, windows.vm_validation, seed=seed)


def aliases(context: RunContext) -> tuple[str | None, ...]:
    """Versions of champion, challenger and rollback."""
    name = context.vm_name(VERTICAL)
    found = (context.registry.by_alias(name, alias) for alias in (CHAMPION, CHALLENGER, ROLLBACK))
    return tuple(None if model is None else model.version for model in found)


def gate(context: RunContext, **settings: float) -> None:
    own = context.config.gate.model_copy(update=settings)
    context.config = context.config.model_copy(update={"gate": own})


def evaluated(context: RunContext, arm: str) -> list[dict[str, Any]]:
    rows = context.store.arrow("evaluations", context.store.newest("evaluations"), {}, None)
    return list(rows.filter(pc.equal(rows["arm"], arm)).to_pylist())


def test_a_second_version_takes_over_and_gives_back(copied: RunContext, loop: Loop) -> None:
    name, test = copied.vm_name(VERTICAL), loop.result.windows.test
    assert train(copied, loop, seed=1).version == "2"
    assert aliases(copied) == ("1", "2", None)
    with pytest.raises(StepError, match=rf"{name}: no version to roll back to: nothing was promoted over a champion"):
        rollback(copied, VERTICAL)

    gate(copied, min_positives=10**6, **ANY_DIFFERENCE)
    assert promote(copied, VERTICAL).verdict == "hold"
    gate(copied, min_positives=50, calibration_low=5.0, calibration_high=6.0)
    with pytest.raises(GateError, match=rf"{name} version 2: failed: calibration .* lies outside 5\.0 \.\. 6\.0"):
        promote(copied, VERTICAL)
    assert copied.registry.by_version(name, "2").tags["loopfm.gate"] == "failed"
    assert aliases(copied) == ("1", "2", None), "neither hold nor failed moves an alias"

    gate(copied, calibration_low=0.1, calibration_high=10.0)
    assert judge(copied, VERTICAL)[1].verdict == "passed"
    assert aliases(copied) == ("1", "2", None), "the gate alone moves no alias"
    assert promote(copied, VERTICAL).verdict == "passed"
    assert aliases(copied) == ("2", "2", "1")
    row = max(evaluated(copied, "gate"), key=lambda row: int(row["computed_at"]))
    assert (row["model_version"], row["first_part"], row["last_part"]) == ("2", test[0], test[-1])
    assert promote(copied, VERTICAL).reasons == ["is the champion already"]

    assert rollback(copied, VERTICAL).version == "1"
    assert aliases(copied) == ("1", "2", "2")
    assert rollback(copied, VERTICAL).version == "2", "a rollback can be taken back"


def test_a_version_is_evaluated_wherever_the_alias_points(copied: RunContext, loop: Loop) -> None:
    name, test = copied.vm_name(VERTICAL), loop.result.windows.test
    version = train(copied, loop, seed=1).version
    copied.registry.set_alias(name, CHAMPION, "1")
    copied.registry.set_alias(name, CHALLENGER, "1")
    figures = evaluate(copied, VERTICAL, test, version)
    assert {figure.arm for figure in figures} == {CHAMPION, CHALLENGER}
    assert {row["model_version"] for row in evaluated(copied, CHALLENGER)} == {version}
    assert {row["model_version"] for row in evaluated(copied, CHAMPION)} == {"1"}
    figures = evaluate(copied, VERTICAL, loop.result.windows.vm_validation + test, version)
    assert {(figure.arm, figure.value) for figure in figures if figure.metric == "ne"} == {
        (row["arm"], row["value"])
        for arm in (CHAMPION, CHALLENGER)
        for row in evaluated(copied, arm)
        if row["metric"] == "ne"
    }, "what either trained on is left out"
    with pytest.raises(StepError, match=rf"{name}: no version 99; there are \['2', '1'\]"):
        evaluate(copied, VERTICAL, test, "99")
    with pytest.raises(StepError, match=rf"{name} version 1 \(champion\) trained until 2026-01-06: evaluate after it"):
        evaluate(copied, VERTICAL, loop.result.windows.vm_validation)


def test_the_command_line_names_the_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("pipelines.evaluate.evaluate", lambda context, *of: asked.append(of) or [])
    command = ["evaluate", "conf/demo.yaml", "--vertical", VERTICAL, "--from", "2026-01-09"]
    assert main([*command, "--version", "2"]) == 0
    assert asked == [(VERTICAL, ["2026-01-09"], "2")]
    with pytest.raises(SystemExit):
        main([*command, "--space", "fm-1"])
    assert "unrecognized arguments: --space fm-1" in capsys.readouterr().err


def once(does: Callable[..., Any]) -> Callable[..., Any]:
    """``does``, but the first call's caller dies right after it."""
    calls: list[int] = []

    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        result = does(*arguments, **named)
        if len(calls) == 1:
            raise OSError("the process was lost")
        return result

    return call


def runs(context: RunContext, **tags: str) -> list[tuple[str, str]]:
    """Id and status of all runs with these tags, failed ones included."""
    query = " and ".join(f"tags.`loopfm.{key}` = '{value}'" for key, value in tags.items())
    found = context.registry.client.search_runs([context.registry.experiment_id], query)
    assert len({run.data.tags[IDEMPOTENCY_TAG] for run in found}) == len(found)
    return [(run.info.run_id, run.info.status) for run in found]


def test_a_vm_tried_again_leaves_one_run_and_one_version(
    copied: RunContext, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copied.registry.versions(copied.vm_name(VERTICAL))
    monkeypatch.setattr(train_vm_step, "record", once(train_vm_step.record))
    with pytest.raises(OSError, match="lost"):
        train(copied, loop, seed=2)
    [(failed, status)] = runs(copied, kind="vm", seed="2")
    assert status == "FAILED"
    assert copied.registry.versions(copied.vm_name(VERTICAL)) == before

    monkeypatch.setattr(copied.registry, "register", once(copied.registry.register))
    with pytest.raises(OSError, match="lost"):
        train(copied, loop, seed=2)
    again = train(copied, loop, seed=2)
    assert runs(copied, kind="vm", seed="2") == [(failed, "FINISHED")]
    assert again.run_id == failed
    assert copied.registry.versions(copied.vm_name(VERTICAL)) == [again.version, *before]
    assert aliases(copied)[1] == again.version


def test_an_fm_tried_again_leaves_one_run_one_version_and_one_space(
    copied: RunContext, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, spaces = loop.result.windows, len(copied.spaces.all())
    before = copied.registry.versions(copied.fm_name)
    monkeypatch.setattr(copied.registry, "register", once(copied.registry.register))
    with pytest.raises(OSError, match="lost"):
        train_fm(copied, windows.fm_train, windows.fm_validation, seed=3)
    [(failed, status)] = runs(copied, kind="fm", seed="3")
    assert status == "FAILED"
    assert len(copied.registry.versions(copied.fm_name)) == len(before) + 1
    space = train_fm(copied, windows.fm_train, windows.fm_validation, seed=3)
    assert runs(copied, kind="fm", seed="3") == [(failed, "FINISHED")]
    assert space.run_id == failed
    assert len(copied.registry.versions(copied.fm_name)) == len(before) + 1
    assert len(copied.spaces.all()) == spaces + 1
    copied.spaces.close(space.space_id)
    assert train_fm(copied, windows.fm_train, windows.fm_validation, seed=3) == space
    assert space in copied.spaces.active(), "the same training again opens its space"


def test_an_fm_of_a_further_seed_leaves_the_registry_alone(copied: RunContext, loop: Loop) -> None:
    windows, registry = loop.result.windows, copied.registry
    before = registry.versions(copied.fm_name), registry.by_alias(copied.fm_name, CHAMPION)
    space = train_fm(copied, windows.fm_train, windows.fm_validation, seed=4, register=False)
    assert space in copied.spaces.active()
    assert (registry.versions(copied.fm_name), registry.by_alias(copied.fm_name, CHAMPION)) == before


def test_a_training_by_other_code_is_another_training(
    copied: RunContext, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, space = loop.result.windows, loop.result.spaces[0]

    def known_by() -> list[str]:
        vm = vm_training(copied, VERTICAL, space, (windows.vm_train, windows.vm_validation))
        return [vm.idempotency, fm_training(copied, windows.fm_train, windows.fm_validation).idempotency]

    before = known_by()
    assert known_by() == before
    for step in (train_vm_step, train_fm_step):
        monkeypatch.setattr(step, "training_code", lambda own_parts: "other code")
    assert not set(known_by()) & set(before)


def test_weight_0_of_distillation_is_the_arm_without_where_that_is_trained(
    copied: RunContext, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, space, fitted = loop.result.windows, loop.result.spaces[0], list[float]()
    vm = copied.config.vm.model_copy(update={"kd_weights": [0.0, 0.3]})
    copied.config = copied.config.model_copy(update={"vm": vm})
    fit = train_vm_step.fit

    def counted(context: RunContext, vertical: str, config: Any, *given: Any) -> Any:
        fitted.append(config.kd_weight)
        return fit(context, vertical, config, *given)

    def trained(arm: Any, seed: int) -> dict[str, float]:
        parts = (windows.vm_train, windows.vm_validation)
        run = train_vm(copied, VERTICAL, space, *parts, arm=arm, seed=seed, register=False).run_id
        return copied.registry.run_metrics(run)

    monkeypatch.setattr(train_vm_step, "fit", counted)
    plain, taught = trained("loopfm", 7), trained("loopfm_kd", 7)
    assert fitted == [0.0, 0.3]
    assert taught["validation_ne_kd_0"] == plain["validation_ne"]
    assert taught["validation_ne"] == min(taught["validation_ne_kd_0"], taught["validation_ne_kd_0.3"])
    alone = trained("loopfm_kd", 8)
    assert fitted[2:] == [0.0, 0.3], "without the arm both are trained"
    assert alone["validation_ne_kd_0"] == trained("loopfm", 8)["validation_ne"], "and weight 0 is the same training"
