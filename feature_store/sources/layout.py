"""What each file of a source looks like before any row is read: its columns and types, or why it cannot be read."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from feature_store.config import ReadConfig
from feature_store.errors import BadDataError
from feature_store.sources.paths import hadoop_conf, jvm, jvm_path, plain_path

_FOOTERS_AT_ONCE = 8


@dataclass(frozen=True)
class FileLayout:
    """Columns of one file (name -> Spark type), or the reason why it cannot be read."""

    path: str
    columns: dict[str, str]
    unreadable: str | None = None


def file_layouts(spark: SparkSession, read: ReadConfig, files: list[str]) -> list[FileLayout]:
    """Layout of every file, from Parquet footers or CSV headers alone."""
    one = _csv_layout if read.format == "csv" else _parquet_layout
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        return list(pool.map(lambda path: one(spark, read, path), files))


def _parquet_layout(spark: SparkSession, read: ReadConfig, path: str) -> FileLayout:
    hadoop = jvm(spark).org.apache.parquet.hadoop
    converters = jvm(spark).org.apache.spark.sql.execution.datasources.parquet
    try:
        source = hadoop.util.HadoopInputFile.fromPath(jvm_path(spark, path), hadoop_conf(spark))
        reader = hadoop.ParquetFileReader.open(source)
        try:
            message = reader.getFooter().getFileMetaData().getSchema()
        finally:
            reader.close()
        conf = spark._jsparkSession.sessionState().conf()
        schema = T.StructType.fromJson(
            json.loads(converters.ParquetToSparkSchemaConverter(conf).convert(message).json())
        )
    except Py4JJavaError as error:
        return FileLayout(path, {}, str(error.java_exception.getMessage()).split("\n")[0])
    return FileLayout(path, {field.name: field.dataType.simpleString() for field in schema})


def _csv_layout(spark: SparkSession, read: ReadConfig, path: str) -> FileLayout:
    try:
        header = spark.read.options(**csv_options(read)).csv(path)
    except (PySparkException, Py4JJavaError) as error:
        return FileLayout(path, {}, str(error).split("\n")[0])
    return FileLayout(path, {name: "string" for name in header.columns})


def csv_options(read: ReadConfig) -> dict[str, str]:
    """Options of a CSV read: a header line unless the data set says otherwise."""
    return {"header": "true", **read.options}


def common_columns(layouts: list[FileLayout], expected: dict[str, str] | None, typed: bool) -> dict[str, str]:
    """Columns to read, the same in every readable file: the expected ones, else those of the first file.

    Args:
        typed: whether the files carry types (CSV does not: its columns take the expected ones, or string).

    Raises:
        BadDataError: a column is missing in a file, or has another type than expected or than in the first file.
    """
    readable = [layout for layout in layouts if layout.unreadable is None]
    columns = expected if expected is not None else (readable[0].columns if readable else {})
    for layout in readable:
        path = plain_path(layout.path)
        for column, kind in columns.items():
            got = layout.columns.get(column)
            if got is None:
                raise BadDataError(
                    f"{path}: column {column} is missing; expected {kind}; got columns {sorted(layout.columns)}"
                )
            if typed and got != kind:
                changed = sum(other.columns.get(column, kind) != kind for other in readable)
                raise BadDataError(
                    f"{path}: column {column} has another type: expected {kind}, got {got}, in {changed} of "
                    f"{len(readable)} files; correct the file, or source.expected_columns if the change is wanted"
                )
    return columns


def extra_columns(layouts: list[FileLayout], columns: dict[str, str]) -> list[str]:
    """Columns of some file that are not read."""
    return sorted({name for layout in layouts for name in layout.columns} - set(columns))
