"""Recipes: what each name stands for, and that a project's own settings replace single ones of it."""

from __future__ import annotations

from typing import Any

import pytest

from models.config import NormBoundary
from pipelines.config import ARMS, ProjectConfig, load_config, parse_config, written_settings
from pipelines.recipes import overlaid
from tests.pipelines import loop_world


def project(vm: dict[str, Any], **dataset: Any) -> ProjectConfig:
    return parse_config({**loop_world.raw_settings(**dataset), "vm": vm}, "x.yaml")


THREE_KEYS = {"length": 50, "keys": {"user": ["user"], "item": ["item"], "user_category": ["user", "category"]}}


def test_minimal_reads_one_history_by_its_mean() -> None:
    vm = project({"recipe": "minimal"}).vm
    assert [(r.key, r.tokens, r.kinds) for r in vm.loopfm_readers] == [("item", "fm", ["mean"])]
    assert vm.arm(vm.scheduled_arm).kd_weight == 0
    only_user = project({"recipe": "minimal"}, histories={"keys": {"who": ["user"]}})
    assert [r.key for r in only_user.vm.loopfm_readers] == ["who"]


def test_recommended_reads_every_key_and_the_newest_token_of_items() -> None:
    vm = project({"recipe": "recommended"}, histories=THREE_KEYS).vm
    assert {r.key: r.kinds for r in vm.loopfm_readers} == {
        "user": ["mean", "attention"],
        "item": ["mean", "attention", "newest"],
        "user_category": ["mean", "attention"],
    }
    assert vm.base.calibrate
    assert vm.weights_to_try(vm.scheduled_arm) == [0, 0.3]


def test_everything_switches_every_method_on() -> None:
    vm = project({"recipe": "everything"}, histories=THREE_KEYS).vm
    scheduled = vm.arm(vm.scheduled_arm)
    assert {(r.tokens, tuple(r.keys)) for r in scheduled.readers} == {
        ("fm", ("user",)), ("fm", ("item",)), ("fm", ("user_category",)), ("fm", ("user", "item", "user_category")),
        ("raw", ("user",)), ("raw", ("item",)), ("raw", ("user_category",)),
    }  # fmt: skip
    assert all(isinstance(r.boundary, NormBoundary) for r in scheduled.readers)
    assert {kind for r in scheduled.readers for kind in r.kinds} == {"mean", "newest", "decayed", "attention"}
    assert scheduled.distillation.kind == "adapter"
    assert vm.weights_to_try(vm.scheduled_arm) == [0, 0.1, 0.3]


def test_settings_beside_a_recipe_replace_single_ones_of_it() -> None:
    own = {"recipe": "everything", "kd_weights": [0, 1], "base": {"units": [16], "distillation": {"kind": "loss"}}}
    vm = project(own).vm
    assert vm.kd_weights == [0, 1]
    assert (vm.base.units, vm.base.calibrate, vm.base.distillation.kind) == ([16], True, "loss")
    assert len(vm.loopfm_readers) == 3, "what is not given stays the recipe's"


def test_validated_settings_read_again_are_the_same() -> None:
    config = project({"recipe": "recommended", "kd_weights": []})
    assert parse_config(written_settings(config), "x.yaml") == config


def test_a_project_without_a_recipe_keeps_its_settings() -> None:
    demo = load_config(loop_world.CONF).vm
    assert demo.recipe is None
    assert not demo.base.calibrate
    assert demo.weights_to_try("loopfm_kd") == []


@pytest.mark.parametrize("raw", [{"vm": []}, {"vm": {"recipe": []}}, {"vm": {"recipe": "minimal"}, "dataset": 1}])
def test_what_has_not_the_form_of_a_project_is_left_to_validation(raw: dict[str, Any]) -> None:
    from pipelines.errors import ConfigError

    with pytest.raises(ConfigError, match=r"Field required|should be a valid"):
        parse_config(raw, "x.yaml")


def test_lists_and_alternatives_are_replaced_and_mappings_merged() -> None:
    under = {"a": {"b": 1, "c": [1, 2]}, "d": {"kind": "x", "e": 1}}
    assert overlaid(under, {"a": {"c": [3]}, "d": {"kind": "y"}}) == {"a": {"b": 1, "c": [3]}, "d": {"kind": "y"}}
    assert under == {"a": {"b": 1, "c": [1, 2]}, "d": {"kind": "x", "e": 1}}


def test_raw_tokens_stand_beside_the_fms_in_the_arms_that_ask_for_both() -> None:
    vm = loop_world.settings().vm
    assert vm.arm("raw_loopfm").readers == [*vm.loopfm_readers, *vm.raw_readers]
    assert (vm.arm("control").kd_weight, vm.arm("control_kd").kd_weight) == (0, vm.kd_weight)
    assert vm.arm("control_kd").readers == vm.arm("control").readers
    assert (vm.arm("raw_loopfm").kd_weight, vm.arm("raw_loopfm_kd").kd_weight) == (0, vm.kd_weight)
    assert "raw_loopfm" not in ARMS, "a run compares it only where it is asked for"
