from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

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
    assert set(jars.DELTA.needed) <= set(names)
    assert not [name for name in names if "hadoop-client" in name]


def test_only_deltas_own_jars_are_kept(empty_cache, monkeypatch):
    monkeypatch.setattr(
        jars.subprocess, "run", fake_submit([*jars.DELTA.needed, "org.apache.hadoop_hadoop-client-api-3.4.2.jar"])
    )
    assert [path.name for path in jars.delta_jars()] == sorted(jars.DELTA.needed)
    assert [path.name for path in empty_cache.iterdir()] == ["delta-4.4.0"]


def test_the_jars_of_s3_are_a_set_of_their_own(empty_cache, monkeypatch):
    resolved = ["org.apache.hadoop_hadoop-aws-3.5.0.jar", "software.amazon.other-1.jar", "org.other_else-1.jar"]
    monkeypatch.setattr(jars.subprocess, "run", fake_submit(resolved))
    assert [path.name for path in jars.s3_jars()] == resolved[:2]
    assert [path.name for path in empty_cache.iterdir()] == ["s3-3.5.0"]


def test_of_the_sdk_only_what_s3_needs_is_kept(tmp_path):
    services = "software/amazon/awssdk/services"
    kept = [f"{services}/s3/S3Client.class", f"{services}/sts/StsClient.class", "software/amazon/awssdk/core/Sdk.class"]
    dropped = [f"{services}/s3tables/Client.class", f"{services}/ec2/Client.class"]
    with zipfile.ZipFile(tmp_path / "sdk.jar", "w") as archive:
        for name in [*kept, *dropped]:
            archive.writestr(name, name)
    jars._trim(tmp_path / "sdk.jar", tmp_path / "small.jar")
    with zipfile.ZipFile(tmp_path / "small.jar") as archive:
        assert archive.namelist() == kept
        assert archive.read(kept[0]).decode() == kept[0]


def test_the_connector_for_s3_is_that_of_sparks_hadoop():
    import pyspark

    names = [path.name for path in (Path(pyspark.__file__).parent / "jars").glob("hadoop-client-api-*.jar")]
    assert names == [f"hadoop-client-api-{jars.HADOOP_VERSION}.jar"]


def test_failed_resolution_leaves_no_cache_and_says_what_to_do(empty_cache, monkeypatch):
    monkeypatch.setattr(jars.subprocess, "run", fake_submit(["io.delta_other.jar"], code=1))
    with pytest.raises(FeatureStoreError, match=r"(?s)delta-spark_4.2_2.13:4.4.0.*LOOPFM_CACHE.*unresolved dependency"):
        jars.delta_jars()
    assert list(empty_cache.iterdir()) == []


@pytest.mark.slow
def test_resolution_through_spark(empty_cache):
    assert set(jars.DELTA.needed) <= {path.name for path in jars.delta_jars()}
