"""Dags come from YAML files alone: all of them load, a broken one takes only its own away, and parsing is light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from jinja2 import Environment, StrictUndefined

from dags.bundle import ProjectsBundle
from dags.factory import project_dags
from dags.timetable import EveryPartitions, cron_cadence
from pipelines.config import load_config
from pipelines.orchestration.demo import LAST_WRITE, OF_A_SPACE
from tests.pipelines import loop_world

ROOT = Path(__file__).parents[2]
KINDS = ["data", "backfill", "fm", "maintenance"]


@pytest.fixture
def bundle(tmp_path: Path, conf_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectsBundle:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    return ProjectsBundle(name="loopfm")


def load(bundle: ProjectsBundle) -> DagBag:
    bundle.refresh()
    return DagBag(bundle.path, safe_mode=False, bundle_path=bundle.path, bundle_name="loopfm")


@pytest.mark.parametrize("path", sorted(ROOT.glob("conf/*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_project_gets_its_dags(path: Path) -> None:
    dags, config = project_dags(str(path)), load_config(path)
    kinds = [*KINDS, *(f"{kind}_{vertical}" for vertical in config.dataset.heads for kind in ("vm", "search"))]
    assert set(dags) == {f"{config.name}_{kind}" for kind in kinds}
    for dag in dags.values():
        dag.validate()
        dag.check_cycle()
        assert dag.doc_md
        assert DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).dag_id == dag.dag_id
        assert all(task.doc_md for task in dag.tasks if type(task).__name__ == "VerbOperator")


def test_one_step_is_one_task_in_the_pool_of_what_it_loads(project_file: Path) -> None:
    dag = project_dags(str(project_file))["small_data"]
    pools = {task.task_id: task.pool for task in dag.tasks}
    spark = {"check", "ingest", "fm_inputs", "raw_segments", "space.infer", "space.segments", "space.features"}
    assert {task for task, pool in pools.items() if pool == "spark"} == spark
    assert pools["score"] == "default_pool"
    assert {task.pool for task in project_dags(str(project_file))["small_backfill"].tasks} == {"spark"}
    trainers = {task.task_id for task in project_dags(str(project_file))["small_fm"].tasks if task.pool == "trainer"}
    assert "train_fm" in trainers
    vm = {task.task_id: task.pool for task in project_dags(str(project_file))["small_vm_feed"].tasks}
    assert (vm["train_vm"], vm["compare"]) == ("trainer", "trainer")
    seen = yaml.safe_load(project_file.read_text())
    seen["dataset"]["fm_features"].append("item_clicks")
    project_file.write_text(yaml.safe_dump(seen))
    compare = project_dags(str(project_file))["small_vm_feed"].get_task("compare")
    assert compare.pool == "spark", "it writes what an FM on batch features reads"
    order = ["wait", "check", "ingest", "fm_inputs", "raw_segments", "space.infer", "space.segments", "space.features"]
    for before, after in zip(order, [*order[1:], "score"], strict=True):
        assert after in dag.get_task(before).get_flat_relative_ids(upstream=False)
    assert OF_A_SPACE in pools, "the demo asks for it"


def test_champions_are_scored_before_anything_retrains(project_file: Path) -> None:
    dags = project_dags(str(project_file))
    trainings = ("small_vm_feed", "train_vm"), ("small_fm", "train_fm"), ("small_fm", "feed.train_vm")
    for dag, trained in (*trainings, ("small_search_feed", "trials")):
        assert trained in dags[dag].get_task("score").get_flat_relative_ids(upstream=False)


def test_a_refresh_tells_the_ways_on_once_the_new_space_is_written(project_file: Path) -> None:
    dag = project_dags(str(project_file))["small_fm"]
    align = dag.get_task("align")
    assert {"train_fm", "write", "has_champion"} <= align.get_flat_relative_ids(upstream=True)
    assert align.arguments[0] == "--from-space"
    assert "close_spaces" in align.get_flat_relative_ids(upstream=False)


def test_spaces_are_closed_after_a_training_that_failed_too_and_without_a_second_error(project_file: Path) -> None:
    close = project_dags(str(project_file))["small_fm"].get_task("close_spaces")
    assert (close.is_teardown, close.on_failure_fail_dagrun) == (True, True)
    offered = Environment(undefined=StrictUndefined).from_string(close.arguments[1])
    for facts, space in ((None, ""), ({"space": "fm-1"}, "fm-1")):
        assert offered.render(ti=SimpleNamespace(xcom_pull=lambda task_ids, of=facts: of)) == space


def test_a_vertical_and_the_fm_have_cadences_of_their_own(project_file: Path) -> None:
    raw = yaml.safe_load(project_file.read_text())
    raw["schedule"] = {"train_fm": "every 14 partitions", "train_vm_own": {"shop": "0 4 * * 1"}}
    project_file.write_text(yaml.safe_dump(raw))
    dags = project_dags(str(project_file))
    found = {name: dags[f"small_{name}"].timetable for name in ("fm", "vm_feed", "vm_shop")}
    assert isinstance(found["fm"], EveryPartitions)
    assert found["fm"].count == 14
    crons = [found[name] for name in ("vm_feed", "vm_shop")]
    assert crons == [cron_cadence(cron) for cron in ("0 1 * * *", "0 4 * * 1")]


def test_what_was_trained_is_what_is_evaluated_gated_and_promoted(project_file: Path) -> None:
    dags = project_dags(str(project_file))
    for dag_id, trained in (("small_vm_feed", "train_vm"), ("small_search_feed", "search")):
        for task_id in ("evaluate", "gate", "promote", "promote_approved"):
            arguments = dags[dag_id].get_task(task_id).arguments
            version = arguments[arguments.index("--version") + 1]
            assert version == f"{{{{ ti.xcom_pull(task_ids='{trained}')['version'] }}}}", (dag_id, task_id)


def test_nothing_that_a_backfill_runs_trains_or_promotes(project_file: Path) -> None:
    dags = project_dags(str(project_file))
    verbs = {getattr(task, "verb", None) or task.partial_kwargs["verb"] for task in dags["small_backfill"].tasks}
    assert verbs == {"backfill", "write"}
    assert {"train-vm", "promote", "train-fm"}.isdisjoint(
        getattr(task, "verb", "") for task in dags["small_data"].tasks
    )


def test_what_a_chunk_that_was_tried_again_left_stale_is_written_before_anything_reads_it(project_file: Path) -> None:
    dags = project_dags(str(project_file))
    for dag in (dags["small_backfill"], dags["small_fm"]):
        rest = dag.get_task("write_rest")
        assert rest.upstream_task_ids == {"write"}
        assert rest.trigger_rule == "none_failed", "nor is anything skipped where no chunk was needed"
    backfill, fm = (dags[name].get_task("write_rest").arguments for name in ("small_backfill", "small_fm"))
    assert backfill == ["--from", "{{ params.first }}", "--to", "{{ params.last }}"]
    assert ("first_output" in fm[1], "last_output" in fm[3]) == (True, True)
    assert LAST_WRITE == "write_rest", "the demo goes on from there"
    assert "champions" in dags["small_fm"].get_task("write_rest").downstream_task_ids
    assert {"feed.has_champion", "shop.has_champion"} <= dags["small_fm"].get_task("champions").downstream_task_ids


def test_a_broken_file_breaks_its_own_dags_only(bundle: ProjectsBundle, project_file: Path) -> None:
    broken = loop_world.raw_settings(name="broken")
    broken["dataset"]["grain"] = "7h"
    (project_file.parent / "broken.yaml").write_text(yaml.safe_dump(broken))
    bag = load(bundle)
    assert set(bag.import_errors) == {"broken.py"}
    assert "broken.yaml: dataset: grain: got 25200000 ms; allowed: a divisor of a day" in bag.import_errors["broken.py"]
    assert {dag_id.split("_")[0] for dag_id in bag.dags} == {"small"}


def test_a_copy_that_was_not_renamed_takes_no_dags_away(bundle: ProjectsBundle, project_file: Path) -> None:
    for name in ("a_copy", "z_copy"):
        project_file.with_name(f"{name}.yaml").write_text(project_file.read_text())
    project_file.with_name("other.yaml").write_text(yaml.safe_dump(loop_world.raw_settings(name="other")))
    project_file.with_name("broken.yaml").write_text("dataset: {name: small")
    bag = load(bundle)
    assert set(bag.import_errors) == {"a_copy.py", "z_copy.py", "broken.py"}
    text = f"a_copy.yaml: dataset.name: got 'small', which {project_file} has too; allowed: a name of its own"
    assert text in bag.import_errors["a_copy.py"]
    assert {dag.fileloc.rsplit("/")[-1] for dag in bag.dags.values()} == {"small.py", "other.py"}
    project_file.rename(project_file.with_name("moved.yaml"))
    assert set(load(bundle).import_errors) == {"z_copy.py", "moved.py", "broken.py"}, "one of them is left"


def test_loaders_follow_the_yaml_files(bundle: ProjectsBundle, project_file: Path) -> None:
    bundle.initialize()
    assert [path.name for path in bundle.path.iterdir()] == ["small.py"]
    project_file.rename(project_file.with_name("renamed.yaml"))
    bundle.refresh()
    assert [path.name for path in bundle.path.iterdir()] == ["renamed.py"]
    assert bundle.get_current_version() is None


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import json, sys; from dags.factory import project_dags; project_dags('conf/demo.yaml'); "
        "print(json.dumps(sorted({'torch', 'pyspark', 'mlflow', 'pandas', 'deltalake'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
