"""Errors of the YAML file name file and field, what it got and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.encode import MAX_LIST_LENGTH
from pipelines.config import ARMS, load_config, parse_config
from pipelines.errors import ConfigError
from tests.pipelines import loop_world


def broken(path: str, value: Any) -> str:
    raw = loop_world.raw_settings()
    place = raw
    *parents, last = path.split(".")
    for name in parents:
        place = place[name]
    place[last] = value
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, "conf/x.yaml")
    return str(caught.value)


NUMERIC = {"value": "hour", "kind": "numeric"}
WINDOWS = "windows.0: allowed: ever, or a whole number above 0 and a unit, as in 30m, 6h or 1d"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("dataset.grain", "7m", "conf/x.yaml: dataset: grain: got 420000 ms; allowed: a divisor of a day"),
        ("dataset.lag", "soon", "dataset.lag: got duration 'soon'; allowed: a whole number and a unit"),
        ("dataset.verticals.feed.label", "buy", "verticals.feed.label: got ['buy']; allowed: ['click', 'purchase']"),
        ("dataset.verticals.feed.features", ["nope"], "verticals.feed.features: got ['nope']; allowed:"),
        (
            "dataset.verticals.shop.label",
            "click",
            "dataset: as_of.user_purchases.label: got 'purchase', which is the label of no vertical, so that none is "
            "stored; allowed: ['click'], the labels of verticals ['feed', 'shop']",
        ),
        (
            "dataset.event_lists",
            [{"name": "liked", "key": ["user"], "entity": "item", "length": 2, "label": "like"}],
            "dataset: event_lists.liked.label: got 'like', which is the label of no vertical",
        ),
        ("dataset.histories.keys", {"u": ["nobody"]}, "histories.keys.u.key: got ['nobody']; allowed:"),
        ("dataset.unknown", 1, "conf/x.yaml: dataset.unknown: no such setting; "),
        (
            "vm.base.train.epoch",
            1,
            "vm.base.train.epoch: no such setting; did you mean epochs? allowed: ['batch_size', ",
        ),
        ("fm.blocks", {"mlp": {"units": [8]}}, "fm.blocks.mlp: got no kind; allowed: kind: one of ['cross', 'dot', "),
        (
            "fm.blocks",
            {"mlp": {"kind": "mlp", "units": [8], "layer": 1}},
            "no such setting; allowed: ['dropout', 'kind'",
        ),
        (
            "fm.captures",
            ["mlp.0", "mlp.9"],
            "conf/x.yaml: fm: fm.captures: got ['mlp.9']; allowed: ['input', 'mlp.0', ",
        ),
        (
            "fm.blocks",
            {"deep": {"kind": "mlp", "units": [8]}, "c": {"kind": "cross"}, "d": {"kind": "dot"}},
            "fm.captures: got ['mlp.0']; allowed: ['input', 'deep.0', 'c.0', 'c.1', 'd.0']",
        ),
        (
            "vm.raw_readers",
            [{"key": "nobody"}],
            "vm.raw_readers: got key 'nobody'; allowed: a key of dataset.histories",
        ),
        (
            "fm.codec",
            {"dim": 16, "prefixes": [8]},
            "codec.prefixes: got [8]; allowed: rising, the last equal to dim=16",
        ),
        (
            "schedule",
            {"train_fm": "every 0 partitions"},
            "schedule.train_fm: got 'every 0 partitions'; allowed: a cron expression of five fields, or 'every N part",
        ),
        ("schedule", {"train_vm_own": {"feed": "daily"}}, "schedule.train_vm_own: got 'daily'; allowed: a cron"),
        (
            "schedule",
            {"train_vm_own": {"fed": "0 1 * * *"}},
            "schedule.train_vm_own: got 'fed'; allowed: a vertical, one of ['feed', 'shop']",
        ),
        ("vm.kd_weights", [0.3], "kd_weights: got [0.3]; allowed: none, or a list that holds 0"),
        (
            "fm",
            {"external": {"load": "a:b", "checkpoint": "c", "trained_until": "2026-01-01"}, "warm_start": True},
            "fm.external: an FM of your own is not trained here",
        ),
        ("fm.snapshots", 2, "fm.snapshots: got 2; allowed without fm.warm_start: 1"),
        (
            "vm.loopfm_readers",
            [{"key": "user", "with_keys": ["nobody"]}],
            "vm.loopfm_readers: got key 'nobody'; allowed: a key of dataset.histories",
        ),
        ("vm.kd_weight", -1, "vm.kd_weight: Input should be greater than 0; got -1"),
        ("dataset.lag", 5, "dataset.lag: allowed: a whole number and a unit, as in 30m, 6h or 1d; got 5"),
        ("dataset.features.weight", NUMERIC, "dataset: features.weight: makes column 'weight', which is a table's own"),
        (
            "dataset.source.world",
            {"start": "soon"},
            "source.world.start: allowed: a day as in 2026-01-01; got partition",
        ),
        (
            "dataset.source.world",
            {"start": "2026-01-01T00"},
            "source.world.start: allowed: a day as in 2026-01-01; got",
        ),
        *(
            (
                "dataset.as_of",
                [{"name": "n", "kind": "count", "key": ["user"], "windows": [w]}],
                f"{WINDOWS}; got '{w}'",
            )
            for w in ("0m", "00h", "1w", "1")
        ),
        (
            "dataset.within_impression",
            {"columns": ["item_rows_1d"]},
            "dataset: within_impression.columns: got ['item_rows_1d']; allowed without impression_id: none",
        ),
        (
            "dataset.event_lists",
            [{"name": "seen", "key": ["user"], "entity": "item", "length": MAX_LIST_LENGTH + 1}],
            "dataset.event_lists.0.length: Input should be less than or equal to 256; got 257",
        ),
        *(
            (f"windows.{window}", length, f"windows.{window}: Input should be greater than 0; got {length!r}")
            for window in ("fm_train", "fm_validation", "vm_train", "vm_validation", "test")
            for length in ("0d", 0)
        ),
        (
            "vm.base.within_impression",
            True,
            "vm.base.within_impression: got true; allowed without dataset.impression_id: false; name the column",
        ),
        ("vm.base.units", [8, 0], "vm.base.units.1: Input should be greater than or equal to 1; got 0"),
        (
            "fm.blocks",
            {"mlp": {"kind": "mlp", "units": [-1]}},
            "mlp.units.0: Input should be greater than or equal to 1",
        ),
        (
            "fm.blocks",
            {"mlp": {"kind": "mlp", "units": [8]}, "a": {"kind": "self_attention", "heads": 3}},
            "conf/x.yaml: fm: fm.blocks.a.heads: got 3; allowed: a divisor of fm.embedding_dim (8)",
        ),
        (
            "dataset.source",
            {"world": {}, "explode": {"column": "shown", "name": "one"}, "negatives": {"per_positive": 4}},
            "dataset.source: negatives: got them beside explode of 'shown'; allowed: one of the two",
        ),
        (
            "dataset",
            loop_world.raw_settings()["dataset"]
            | {"sampling_rate": "kept", "source": {"world": {}, "negatives": {"per_positive": 4}}},
            "dataset: sampling_rate: got 'kept'; allowed beside source.negatives",
        ),
        (
            "vm.recipe",
            "best",
            "vm.recipe: Input should be 'minimal', 'recommended' or 'everything'; got 'best'",
        ),
    ],
)
def test_field_value_and_what_is_allowed_are_named(path: str, value: Any, said: str) -> None:
    assert said in broken(path, value)


def test_a_duration_of_nothing_needs_no_unit_where_none_is_allowed() -> None:
    raw = loop_world.raw_settings(lag=0, training_lag=0)
    assert parse_config(raw, "x.yaml").dataset.lag == 0


def test_what_is_known_only_after_the_event_is_no_feature() -> None:
    raw = loop_world.raw_settings()
    raw["dataset"]["features"]["read_time"] = {"value": "hour", "kind": "numeric", "known": "after"}
    raw["dataset"]["verticals"]["feed"]["features"].append("read_time")
    with pytest.raises(ConfigError, match=r"\['read_time'\] are known only after the event"):
        parse_config(raw, "x.yaml")


def test_a_missing_file_and_a_broken_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="got list; allowed: a mapping with dataset"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="no valid YAML"):
        load_config(tmp_path / "broken.yaml")


def test_the_control_keeps_positions_and_loses_every_fm_column() -> None:
    vm = loop_world.settings().vm
    control, loopfm = vm.arm("control"), vm.arm("loopfm")
    assert [r.tokens for r in control.readers] == ["control"] * len(loopfm.readers)
    assert [r.model_copy(update={"tokens": "fm"}) for r in control.readers] == loopfm.readers
    assert {arm: vm.arm(arm).kd_weight > 0 for arm in ARMS} == {arm: arm in ("kd", "loopfm_kd") for arm in ARMS}


def test_arms_with_distillation_alone_choose_their_weight() -> None:
    raw = loop_world.raw_settings()
    assert parse_config(raw, "x.yaml").vm.weights_to_try("kd") == []
    raw["vm"]["kd_weights"] = [0, 0.3]
    raw["vm"]["base"]["distillation"] = {"kind": "head", "alpha": 2, "beta": 0.5}
    vm = parse_config(raw, "x.yaml").vm
    assert {arm: vm.weights_to_try(arm) for arm in ARMS if vm.weights_to_try(arm)} == {
        "kd": [0, 0.3],
        "loopfm_kd": [0, 0.3],
    }
    assert vm.arm("kd").distillation.model_dump() == {"kind": "head", "alpha": 2.0, "beta": 0.5}
