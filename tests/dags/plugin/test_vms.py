"""The page of VMs: champions, figures over time, and lineage both ways, over a real MLflow store."""

from __future__ import annotations

import json

import pytest

from pipelines.errors import StepError
from pipelines.inspection.lineage import fed, lineage
from pipelines.inspection.vms import vms
from tests.dags.plugin.ledger_world import DAYS, SPACE


@pytest.fixture(scope="module")
def feed(trained_world):
    found = vms(trained_world.context())
    assert json.dumps(found, allow_nan=False)
    assert [vertical["name"] for vertical in found["verticals"]] == ["feed", "shop"]
    return found["verticals"][0]


def points(feed, metric, arm):
    (line,) = [line for line in feed["series"][metric] if line["arm"] == arm]
    return {point["part"]: point["value"] for point in line["points"]}


def test_champion_and_challenger_are_named(feed):
    assert feed["champion"] == "1"
    assert [(v["version"], v["aliases"], v["trained_until"]) for v in feed["versions"]] == [
        ("2", ["challenger"], DAYS[4]),
        ("1", ["champion"], DAYS[3]),
    ]
    assert feed["versions"][1]["gate"] == {"verdict": "passed", "reasons": "in its band"}
    assert feed["versions"][1]["commit"] == "vm-commit"


def test_staleness_counts_partitions_since_training(feed):
    assert feed["staleness"] == {
        "history_hours": 13.0,
        "trained_until": DAYS[3],
        "partitions_since": 2,
        "fm_cutoff": DAYS[2],
        "partitions_since_fm": 3,
    }


def test_series_hold_the_newest_figure_of_each_partition(feed):
    assert points(feed, "ne", "loopfm_kd") == pytest.approx({DAYS[4]: 0.89, DAYS[5]: 0.891})
    assert points(feed, "ne", "base") == pytest.approx({DAYS[4]: 0.96, DAYS[5]: 0.961})
    assert points(feed, "tr", "loopfm_kd") == pytest.approx({DAYS[5]: 0.51})
    assert points(feed, "ne", "live") == {DAYS[5]: 0.91}
    assert "gate" not in {line["arm"] for line in feed["series"]["ne"]}


def test_the_value_of_the_fm_is_that_of_the_newest_comparison(feed):
    assert feed["value"][0] == "The FM gains +0.1100 NE over base (0.9600 to 0.8500)"
    assert feed["value"][1].startswith("LoopFM + KD gains +0.0700 NE over base, transfer ratio 51 %")


def test_without_models_or_figures_the_page_is_empty_and_makes_no_store(world, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it when it is told of a store
    found = vms(world.context())
    assert [(v["champion"], v["versions"], v["value"]) for v in found["verticals"]] == [(None, [], [])] * 2
    assert not (world.root / "mlflow.db").exists()


def test_lineage_leads_from_the_vm_to_the_fms_commit(trained_world):
    found = lineage(trained_world.context(), "feed", "1")
    assert json.dumps(found)
    tables = {table["name"]: table for table in found["vm"]["tables"]}
    assert {name: table["version"] for name, table in tables.items()} == {
        "features": 0,
        "histories": 0,
        "raw_histories": 0,
    }
    assert tables["raw_histories"]["scope"] == {"space_id": "raw"}
    assert (tables["features"]["partitions"], tables["features"]["rewritten"]) == (1, [])
    assert (found["vm"]["commit"], found["vm"]["windows"]["train"]) == ("vm-commit", (DAYS[2], DAYS[2]))
    assert (found["space"]["id"], found["space"]["cutoff"]) == (SPACE, DAYS[2])
    assert (found["fm"]["version"], found["fm"]["commit"]) == ("1", "fm-commit")
    assert found["fm"]["run_id"] == found["space"]["run_id"]
    assert found["fm"]["tables"][0] | {"scope": None} == {
        "name": "fm_inputs", "table": "fm_inputs", "scope": None, "version": 0, "partitions": 2, "rows": 2000,
        "rewritten": [],
    }  # fmt: skip


def test_lineage_refuses_what_is_not_there(trained_world):
    with pytest.raises(StepError, match=r"no version '9'; there are \['1', '2'\]"):
        lineage(trained_world.context(), "feed", "9")
    with pytest.raises(StepError, match="no vertical 'video'"):
        lineage(trained_world.context(), "video", "1")


@pytest.mark.parametrize(
    ("day", "roles"),
    [
        (0, {("feed", "1", "history"), ("feed", "2", "history"), (None, "1", "fm")}),
        (2, {("feed", "1", "train"), ("feed", "2", "train")}),
        (3, {("feed", "1", "validation"), ("feed", "2", "train")}),
        (4, {("feed", "2", "validation")}),
        (5, set()),
    ],
)
def test_a_partition_names_the_models_it_fed(trained_world, day, roles):
    found = fed(trained_world.context(), DAYS[day])
    assert {(model["vertical"], model["version"], model["role"]) for model in found} == roles
