"""Where the files of a source are: the data root, globs and folders, on any file system that Spark can read."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from feature_store.errors import ContractError

DATA_ROOT_SETTING = "LOOPFM_DATA"
DEFAULT_DATA_ROOT = "../shared/data"
_VARIABLE = "${" + DATA_ROOT_SETTING + "}"


@dataclass(frozen=True)
class SourcePath:
    """One entry of ``read.paths``: its files, and the folder below which ``name=value`` folders are columns."""

    declared: str
    files: list[str]
    base: str | None

    def folder_columns(self) -> dict[str, set[str]]:
        """Columns that Spark finds in ``name=value`` folders below the base, each with its values."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for file in self.files if self.base is not None else []:
            for folder in file.removeprefix(str(self.base)).split("/")[:-1]:
                name, equal, value = folder.partition("=")
                if equal:
                    found[name].add(value)
        return dict(found)


def data_root() -> str:
    """Root of the data sets: LOOPFM_DATA, else ../shared/data. The only place that reads this setting."""
    return os.environ.get(DATA_ROOT_SETTING, DEFAULT_DATA_ROOT)


def expand(path: str) -> str:
    """``path`` with ${LOOPFM_DATA} replaced; a relative local path becomes absolute."""
    full = path.replace(_VARIABLE, data_root())
    return full if "://" in full or full.startswith("file:") else os.path.abspath(full)


def find_files(spark: SparkSession, declared: str) -> SourcePath:
    """Files of one path: a file, a folder (searched below) or a glob; names starting with _ or . are left out.

    Raises:
        ContractError: nothing is there. An existing folder without files is a valid, empty source.
    """
    path = jvm_path(spark, expand(declared))
    system = path.getFileSystem(hadoop_conf(spark))
    found = list(system.globStatus(path) or [])
    if not found:
        raise ContractError(
            f"source path {declared}: nothing at {expand(declared)}; correct read.paths, or set {DATA_ROOT_SETTING} to "
            f"the folder of the data sets (now {data_root()})"
        )
    files = [file for status in found for file in _below(system, status)]
    folder = len(found) == 1 and found[0].isDirectory()
    return SourcePath(declared, sorted(files), found[0].getPath().toString() if folder else None)


def plain_path(path: str) -> str:
    """A local path without its scheme; any other path as it is."""
    return "/" + path.removeprefix("file:").lstrip("/") if path.startswith("file:") else path


def _below(system: Any, status: Any) -> list[str]:
    name = status.getPath().getName()
    if name.startswith(("_", ".")):
        return []
    if not status.isDirectory():
        return [status.getPath().toString()]
    return [file for child in system.listStatus(status.getPath()) for file in _below(system, child)]


def jvm_path(spark: SparkSession, path: str) -> Any:
    """Hadoop's Path of a path or URI."""
    return jvm(spark).org.apache.hadoop.fs.Path(path)


def jvm(spark: SparkSession) -> Any:
    """The driver's JVM, for what Spark's Python API does not offer."""
    return spark.sparkContext._jvm


def hadoop_conf(spark: SparkSession) -> Any:
    """Hadoop's settings of this session."""
    return spark.sparkContext._jsc.hadoopConfiguration()
