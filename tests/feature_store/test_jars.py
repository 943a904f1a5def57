from __future__ import annotations

import subprocess

import pytest

from feature_store import jars
from feature_store.errors import FeatureStoreError


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPFM_CACHE", str(tmp_path))
    return tmp_path / "jars"


def fake_submit(files, code=0):
    """Stands for spark-submit: leaves ``files`` in the ivy folder that the command names."""

    def run(command, **_):
        from pathlib import Path

        ivy = next(part.split("=", 1)[1] for part in command if part.startswith("spark.jars.ivy="))
        (Path(ivy) / "jars").mkdir(parents=True)
        for name in files:
            (Path(ivy) / "jars" / name).write_text(name)
        return subprocess.CompletedProcess(command, code, "", "one\nunresolved dependency: not found")

    return run


def test_cached_jars_are_used_offline(monkeypatch):
    jars.delta_jars()  # the session's own cache, filled before
    monkeypatch.setattr(jars.subprocess, "run", lambda *_, **__: pytest.fail("resolved again"))
    names = [path.name for path in jars.delta_jars()]
    assert set(jars._NEEDED) <= set(names)
    assert not [name for name in names if "hadoop-client" in name]


def test_only_deltas_own_jars_are_kept(empty_cache, monkeypatch):
    monkeypatch.setattr(
        jars.subprocess, "run", fake_submit([*jars._NEEDED, "org.apache.hadoop_hadoop-client-api-3.4.2.jar"])
    )
    assert [path.name for path in jars.delta_jars()] == sorted(jars._NEEDED)
    assert [path.name for path in empty_cache.iterdir()] == ["delta-4.4.0"]


def test_failed_resolution_leaves_no_cache_and_says_what_to_do(empty_cache, monkeypatch):
    monkeypatch.setattr(jars.subprocess, "run", fake_submit(["io.delta_other.jar"], code=1))
    with pytest.raises(FeatureStoreError, match=r"(?s)delta-spark_4.2_2.13:4.4.0.*LOOPFM_CACHE.*unresolved dependency"):
        jars.delta_jars()
    assert list(empty_cache.iterdir()) == []


@pytest.mark.slow
def test_resolution_through_spark(empty_cache):
    assert set(jars._NEEDED) <= {path.name for path in jars.delta_jars()}
