from pathlib import Path

import pytest

from feature_store import session
from feature_store.commit_lock import commit_lock
from feature_store.errors import ContractError
from feature_store.object_store import on_s3, s3_uri, s3a_settings, s3a_uri
from feature_store.store_files import Location


@pytest.mark.parametrize("root", ["s3://tables/home", "s3a://tables/home", "s3a://tables/home/"])
def test_each_reader_gets_its_own_spelling(root):
    location = Location(root)
    assert not location.local
    assert location.spark("examples") == "s3a://tables/home/examples"
    assert location.uri("examples") == "s3://tables/home/examples"


def test_other_places_stay_as_they_are(tmp_path):
    for root in (str(tmp_path), "hdfs://name/home", "abfss://box@account/home"):
        assert not on_s3(root)
        assert s3_uri(root) == s3a_uri(root) == root
        assert Location(root).spark("examples") == Location(root).uri("examples") == f"{root}/examples"


def test_a_store_of_ones_own_is_addressed_by_path(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://object-store:8333")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    settings = s3a_settings()
    assert settings["spark.hadoop.fs.s3a.endpoint"] == "http://object-store:8333"
    assert settings["spark.hadoop.fs.s3a.path.style.access"] == "true"
    assert settings["spark.hadoop.fs.s3a.endpoint.region"] == "eu-central-1"
    assert "hidden" not in str(settings)


def test_without_an_endpoint_the_connector_finds_it_by_itself(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert "spark.hadoop.fs.s3a.endpoint" not in s3a_settings()


def test_tables_on_s3_are_not_written_without_a_lock(monkeypatch):
    monkeypatch.delenv("LOOPFM_COMMIT_LOCK", raising=False)
    message = r"s3a://tables/t: LOOPFM_COMMIT_LOCK is not set.*postgresql://user"
    with pytest.raises(ContractError, match=message), commit_lock("s3a://tables/t"):
        pass


@pytest.mark.parametrize("s3", [True, False])
def test_a_session_gets_the_connector_only_where_it_is_asked_for(monkeypatch, s3):
    monkeypatch.setattr(session, "s3_jars", lambda: [Path("/cache/hadoop-aws.jar")])
    settings = session._delta_settings(s3)
    assert ("/cache/hadoop-aws.jar" in settings["spark.jars"].split(",")) is s3
    assert ("spark.hadoop.fs.s3.impl" in settings) is s3
