"""The documented FM of one's own, from its checkpoint to an evaluated VM, by the commands of docs/extending.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
import pytest
import yaml

from models.external_fm import loader
from models.metrics import normalized_entropy
from pipelines.cli import main
from pipelines.context import RunContext
from pipelines.evaluate import ALL_KNOWN
from pipelines.scoring import fm_scores, score_parts
from pipelines.train_vm import load_trained, train_vm
from tests.pipelines import loop_world

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/own_fm"
COLUMNS = ["user_state", "interest", "item_state", "context"]
FM_PARTS = ["2026-01-01", "2026-01-02", "2026-01-03"]
VM_PARTS, VALIDATION, TEST = ["2026-01-04", "2026-01-05"], "2026-01-06", "2026-01-07"
VERTICAL = "feed"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class OwnProject:
    """A project whose FM is the example's, trained on what the first partitions hold, outside the project."""

    conf: Path
    checkpoint: Path

    def context(self) -> RunContext:
        return RunContext.load(str(self.conf))


@pytest.fixture
def project(tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> OwnProject:
    monkeypatch.setenv("LOOPFM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    spark.sparkContext.addPyFile(str(EXAMPLE / "own_fm.py"))  # the tests' session was started without PYTHONPATH
    made = OwnProject(tmp_path / "project.yaml", tmp_path / "own_fm.npz")
    raw = loop_world.raw_settings()
    raw["fm"] = {
        "external": {"load": "own_fm:load", "checkpoint": str(made.checkpoint), "trained_until": "2026-01-03T12:00"},
        "codec": {"dim": 16, "prefixes": [4, 8, 16]},
        "train": {"epochs": 8},
    }
    raw["vm"] |= {"scheduled_arm": "loopfm"}
    raw["vm"]["base"]["train"] |= {"epochs": 12, "batch_size": 128}
    made.conf.write_text(yaml.safe_dump(raw))
    return made


def run(project: OwnProject, verb: str, *arguments: str) -> None:
    assert main([verb, str(project.conf), *arguments]) == 0, verb


def train_own_fm(project: OwnProject) -> None:
    """What a team does in its own code: rows of fm_inputs and labels in, a checkpoint out."""
    import own_fm

    context = project.context()
    scope, heads = {"inputs_id": context.inputs_id}, context.dataset.heads
    rows = context.store.arrow("fm_inputs", context.pin("fm_inputs", scope, FM_PARTS[:2]), scope, FM_PARTS[:2])
    labels = context.store.arrow("labels", context.pin("labels", {}, FM_PARTS[:2]), {}, FM_PARTS[:2])
    ids = np.sort(rows["example_id"].to_numpy())
    rows = rows.sort_by("example_id")
    own = np.full((len(rows), len(heads)), 0.1, np.float32)
    for head, name in enumerate(heads):
        of = labels.filter(pc.equal(labels["vertical"], name))
        own[np.searchsorted(ids, of["example_id"].to_numpy()), head] = of["label"].to_numpy()
    own_fm.train(rows, own, COLUMNS, project.checkpoint)


def test_a_checkpoint_goes_through_every_step_to_an_evaluated_vm(
    project: OwnProject, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = ("--from", FM_PARTS[0], "--to", loop_world.KNOWN)
    run(project, "ingest", *everything)
    run(project, "fm-inputs", *everything)
    train_own_fm(project)
    run(project, "train-fm", "--from", FM_PARTS[0], "--validate-from", FM_PARTS[-1], "--to", FM_PARTS[-1])
    later = ("--from", VM_PARTS[0], "--to", loop_world.KNOWN)
    run(project, "infer", *later)
    run(project, "segments", *later)
    run(project, "segments", *everything, "--space", "raw")
    run(project, "features", *later)
    windows = ("--from", VM_PARTS[0], "--validate-from", VALIDATION, "--to", VALIDATION)
    run(project, "train-vm", "--vertical", VERTICAL, *windows)
    capsys.readouterr()
    run(project, "evaluate", "--vertical", VERTICAL, "--from", TEST)

    printed = {name: float(value) for name, value in re.findall(r"^\S+ +(\S+) +(\S+)$", capsys.readouterr().out, re.M)}
    context = project.context()
    space = context.space()
    assert (space.captures, space.dim) == (["own_fm:load"], 16)
    scope = {"space_id": space.space_id}
    outputs = context.store.arrow("fm_outputs", context.pin("fm_outputs", scope, [TEST]), scope, [TEST])
    inputs_of = {"inputs_id": context.inputs_id}
    rows = context.store.arrow("fm_inputs", context.pin("fm_inputs", inputs_of, [TEST]), inputs_of, [TEST])
    logits, _ = loader("own_fm:load")(project.checkpoint)(rows.sort_by("example_id").combine_chunks().to_batches()[0])
    stored = np.stack(outputs.sort_by("example_id")["logits"].to_numpy())
    np.testing.assert_allclose(stored, logits, atol=1e-5)

    base = train_vm(context, VERTICAL, space, VM_PARTS, [VALIDATION], arm="base", register=False)
    scores = score_parts(context, VERTICAL, load_trained(context, base.run_id), space, [TEST], ALL_KNOWN)
    without = normalized_entropy(scores.label, scores.p, scores.weight)
    fm = fm_scores(context, VERTICAL, space, [TEST], scores)
    assert normalized_entropy(fm.label, fm.p, fm.weight) < without
    assert printed["ne"] < without - 0.005


def test_the_page_names_every_step_that_this_file_takes() -> None:
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    verbs = set(re.findall(r"^loopfm (\S+)", page, re.MULTILINE))
    assert {"ingest", "fm-inputs", "train-fm", "infer", "segments", "features", "train-vm", "evaluate"} <= verbs
