"""The contract between vm_feed and FuxiCTR's program: its task file, its pins, and what the target is made of."""

import ast
import re

import numpy as np
import pytest

from benchmarks import vm_feed
from benchmarks.harness import BenchmarkError, Report
from benchmarks.peers.environment import CACHE, PINNED, PROGRAM, peer_python, run_peer
from benchmarks.vm_feed import PeerSettings, fuxictr_deepfm

TASK = {
    "label": "label", "batch_size": 256, "embedding_dim": 4, "embedding_std": 0.05, "base_rate": 0.3,
    "hidden_units": [8], "learning_rate": 0.01, "epochs": 2, "threads": 1,
}  # fmt: skip


def test_the_program_imports_nothing_of_ours():
    tree = ast.parse(PROGRAM.read_text())
    modules = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    modules += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    ours = {"models", "pipelines", "feature_store", "benchmarks"}
    assert not {module.split(".")[0] for module in modules} & ours


def test_every_package_is_pinned_and_no_index_is_named():
    lines = [line for line in PINNED.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[^ ]+", line) for line in lines)
    assert any(line.startswith("fuxictr==") for line in lines)
    assert any(line.startswith("torch==") for line in lines)
    assert "://" not in PINNED.read_text()


def test_the_task_says_all_that_the_program_reads():
    read = set(re.findall(r'task\["(\w+)"\]', PROGRAM.read_text()))
    given = set(TASK) | {"folder", "features", "loader", "workers", "seed"}
    assert read == given


@pytest.mark.parametrize(
    ("memory_seconds", "target"),
    [(9.0, 0.9), (4.5, 1.8), (6.0, 1.35), (1.0, 2.0)],
)
def test_the_fastest_loader_counts_and_sets_the_target(monkeypatch, memory_seconds, target):
    epochs = {"npz": [30.0, 10.0, 8.0], "parquet": [11.0, 12.0, 13.0]}

    def answer(python, task):
        return {
            "rows": 900, "epoch_seconds": epochs[task["loader"]], "memory_seconds": memory_seconds,
            "valid_logloss": [0.5, 0.2 + 0.1 * task["seed"]],
        }  # fmt: skip

    monkeypatch.setattr(vm_feed, "run_peer", answer)
    settings = PeerSettings(loaders=[("parquet", 1), ("npz", 2)], epochs=3, seeds=2, learning_rate=0.001)
    rate, wanted, ne = fuxictr_deepfm(PROGRAM, {"valid_entropy": 0.5}, settings, Report("vm_feed"))
    assert rate == pytest.approx(100.0)
    assert wanted == pytest.approx(target)
    assert ne == pytest.approx(0.5)


@pytest.mark.skipif(not (CACHE / "peers" / "fuxictr" / "pinned.txt").is_file(), reason="FuxiCTR is not installed")
@pytest.mark.slow
def test_fuxictr_learns_planted_effects(tmp_path):
    random = np.random.default_rng(0)
    for name, rows in (("train", 6000), ("valid", 2000)):
        user, item = random.integers(1, 20, rows), random.integers(1, 5, rows)
        label = (random.random(rows) < np.where(user > 10, 0.5, 0.1)).astype(np.int64)
        np.savez(tmp_path / f"{name}.npz", user=user, item=item, label=label)
    task = TASK | {"folder": str(tmp_path), "features": {"user": 20, "item": 5}, "loader": "npz", "workers": 0}
    result = run_peer(peer_python(), task | {"seed": 0})
    assert result["rows"] == 6000
    assert result["steps"] == 24
    assert len(result["epoch_seconds"]) == len(result["valid_logloss"]) == 2
    assert 0 < result["memory_seconds"] <= 10 * min(result["epoch_seconds"])
    assert result["valid_logloss"][-1] < 0.56


def test_a_loader_that_fails_is_left_out_and_without_any_there_is_no_figure(monkeypatch):
    def answer(python, task):
        if task["loader"] == "parquet":
            raise BenchmarkError("FuxiCTR failed: no Ray")
        return {"rows": 100, "epoch_seconds": [1.0, 2.0], "memory_seconds": 1.0, "valid_logloss": [0.1]}

    monkeypatch.setattr(vm_feed, "run_peer", answer)
    both = PeerSettings(loaders=[("parquet", 1), ("npz", 0)], epochs=2, seeds=1, learning_rate=0.001)
    assert fuxictr_deepfm(PROGRAM, {"valid_entropy": 0.5}, both, Report("vm_feed"))[0] == 50.0
    broken = both.model_copy(update={"loaders": [("parquet", 1)]})
    with pytest.raises(BenchmarkError, match="none of FuxiCTR's loaders"):
        fuxictr_deepfm(PROGRAM, {"valid_entropy": 0.5}, broken, Report("vm_feed"))
