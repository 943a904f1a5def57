import pytest

from pipelines.errors import ConfigError
from tests.pipelines import loop_world


@pytest.fixture
def context(tmp_path):
    return loop_world.context(tmp_path)


def test_tables_or_sources_on_s3_ask_for_its_connector(context, monkeypatch):
    monkeypatch.setenv("LOOPFM_DATA", "/data")
    assert not context.on_s3
    monkeypatch.setenv("LOOPFM_DATA", "s3a://bucket/data")
    assert context.on_s3
    monkeypatch.delenv("LOOPFM_DATA")
    context.root = "s3://bucket/home"
    assert context.on_s3


def test_a_source_on_s3_is_seen_in_the_yaml(tmp_path, monkeypatch):
    monkeypatch.delenv("LOOPFM_DATA", raising=False)
    source = {"read": {"format": "parquet", "paths": ["s3a://bucket/clicks"]}}
    context = loop_world.context(tmp_path)
    context.config = context.config.model_copy(
        update={"dataset": context.dataset.model_copy(update={"source": type(context.dataset.source)(**source)})}
    )
    assert context.on_s3


def test_a_home_on_s3_needs_an_mlflow_server(context, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    context.root = "s3a://bucket/home"
    with pytest.raises(
        ConfigError, match=r"MLFLOW_TRACKING_URI is not set; with LOOPFM_HOME=s3a://bucket/home it must"
    ):
        _ = context.registry


def test_an_image_names_its_commit(context, monkeypatch):
    monkeypatch.setenv("LOOPFM_COMMIT", "0123456789ab")
    assert context.commit == "0123456789ab"


def test_a_machine_without_git_does_not_stop_a_step(context, monkeypatch, tmp_path):
    monkeypatch.delenv("LOOPFM_COMMIT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert context.commit == "unknown"


def test_scratch_lies_where_it_is_told(context, monkeypatch, tmp_path):
    monkeypatch.setenv("LOOPFM_SCRATCH", str(tmp_path / "volume"))
    context.root = "s3a://bucket/home"
    assert context.scratch == tmp_path / "volume" / "demo" / "scratch"
    assert context.scratch.is_dir()
