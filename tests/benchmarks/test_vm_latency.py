"""The latency benchmark: requests that fit the recipe, and a run from its short settings."""

import subprocess
import sys

import pytest

from benchmarks.harness import CONF, load_settings
from benchmarks.projects import REPOSITORY
from benchmarks.vm_latency import SETTINGS
from benchmarks.vm_requests import make_requests


def test_every_request_reads_a_full_history_of_each_key():
    config = load_settings(SETTINGS, CONF / "vm_latency.yaml").project.load()
    made = make_requests(config, "feed", 7, 50, seed=0)
    assert {key for key, _ in made.histories.items()} == {("fm", "user"), ("fm", "item")}
    for table in made.histories.values():
        assert table["n"].to_pylist() == [50] * 7
        assert all(len(z) == 50 * made.inputs.code_bytes for z in table["z"].to_pylist())
        assert all(newest > oldest for newest, *_, oldest in table["event_ts"].to_pylist())
    assert config.vm.recipe == "recommended"
    assert {reader.key: reader.kinds for reader in config.vm.loopfm_readers} == {
        "user": ["mean", "attention"],
        "item": ["mean", "attention", "newest"],
    }


@pytest.mark.slow
def test_a_short_run_gives_both_quantiles_and_the_ratios():
    command = [sys.executable, "-m", "benchmarks.vm_latency", "--conf", str(CONF / "vm_latency_short.yaml")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    names = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("RESULT")]
    for part in ("request", "network"):
        for size in (1, 8):
            assert {f"{part}_recipe_{size}_p50_ms", f"{part}_plain_{size}_p99_ms"} <= set(names)
            assert f"{part}_{size}_recipe_over_plain" in names
