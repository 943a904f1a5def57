from __future__ import annotations

import sys
from pathlib import Path

import pytest

from feature_store.class_archive import archive_options, archive_path, make_archive


@pytest.fixture
def other_java(tmp_path, monkeypatch):
    """A Java that starts no JVM."""
    home = tmp_path / "java"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").write_text("#!/bin/sh\nexit 1\n")
    (home / "bin" / "java").chmod(0o755)
    (home / "release").write_text('JAVA_VERSION="99"\n')
    monkeypatch.setenv("JAVA_HOME", str(home))
    return home


def test_the_session_maps_the_archive(spark):
    path = make_archive()
    assert path is not None, "make env makes the archive"
    maps = Path(f"/proc/{spark.sparkContext._gateway.proc.pid}/maps").read_text()
    assert str(path) in maps


def test_an_archive_that_is_there_is_kept():
    path = archive_path()
    assert path is not None
    before = path.stat().st_mtime_ns
    assert make_archive() == path
    assert path.stat().st_mtime_ns == before


def test_without_an_archive_there_is_no_option(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert archive_options() == []


def test_another_java_has_another_archive(other_java, monkeypatch):
    theirs = archive_path()
    monkeypatch.delenv("JAVA_HOME")
    assert theirs is not None
    assert theirs != archive_path()


def test_a_java_that_names_no_version_has_none(other_java):
    (other_java / "release").unlink()
    assert archive_path() is None
    assert archive_options() == []


def test_a_java_that_makes_no_archive_leaves_nothing(other_java, tmp_path, monkeypatch):
    prefix = tmp_path / "environment"
    prefix.mkdir()
    monkeypatch.setattr(sys, "prefix", str(prefix))
    assert make_archive() is None
    assert list(prefix.iterdir()) == []
