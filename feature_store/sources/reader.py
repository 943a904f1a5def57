"""Reads the declared files of a source as one frame of raw rows, with unreadable files set aside by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from feature_store.config import ReadConfig
from feature_store.errors import BadDataError, ContractError
from feature_store.sources.layout import FileLayout, common_columns, csv_options, extra_columns, file_layouts
from feature_store.sources.paths import SourcePath, expand, find_files, plain_path

FILE_COLUMN = "source_file"
MALFORMED_COLUMN = "_malformed"
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class RawSource:
    """Raw rows: the columns of the source, ``source_file`` and, for CSV, ``_malformed`` (text of a broken line).

    ``frame`` is None where no file is readable; ``unreadable`` maps a file to the reason; ``file_parts`` gives the
    partition of undated rows where the source itself knows it (the generated world).
    """

    frame: DataFrame | None
    columns: list[str]
    files: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    file_part: Callable[[str], str] | None = None


def read_source(
    spark: SparkSession, read: ReadConfig, expected: dict[str, str] | None, skip: frozenset[str] = frozenset()
) -> RawSource:
    """Open files or a Delta table; no row is read yet.

    Args:
        expected: column -> Spark type; exactly these columns are read and others named in a warning.
        skip: files already known to break while being read.

    Raises:
        ContractError: a path does not exist, or a type is no Spark type.
        BadDataError: a column is missing or has another type.
    """
    wanted = {name: _type(name, kind).simpleString() for name, kind in expected.items()} if expected else None
    if read.format == "delta":
        return _read_delta(spark, read, wanted)
    paths = [find_files(spark, path) for path in read.paths]
    layouts = file_layouts(spark, read, [file for path in paths for file in path.files if file not in skip])
    folders = _folder_columns(paths)
    inside = {name: kind for name, kind in wanted.items() if name not in folders} if wanted else None
    columns = common_columns(layouts, inside, typed=read.format == "parquet")
    of_folders = {name: kind for name, kind in (wanted or {}).items() if name in folders}
    frames = _frames(spark, read, paths, layouts, columns, of_folders)
    unreadable = {layout.path: layout.unreadable for layout in layouts if layout.unreadable is not None}
    unreadable |= dict.fromkeys(sorted(skip), "breaks while its rows are read")
    names = [*columns, *sorted(folders if wanted is None else of_folders)]
    return RawSource(
        frame=reduce(DataFrame.unionByName, [frame.select(*_kept(frame, names)) for frame in frames])
        if frames
        else None,
        columns=names,
        files=len(layouts) + len(skip),
        unreadable={plain_path(path): why for path, why in unreadable.items()},
        warnings=_extra_warning(read, extra_columns(layouts, columns)) + _folder_warnings({} if wanted else folders),
    )


def _folder_columns(paths: list[SourcePath]) -> dict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in paths:
        for name, values in path.folder_columns().items():
            found[name] |= values
    return found


def _folder_warnings(folders: dict[str, set[str]]) -> list[str]:
    """Spark tells a folder column's type by all values together: one that is no number changes that of the others."""
    found = []
    for name, values in sorted(folders.items()):
        numbers = {value for value in values if _NUMBER.fullmatch(value)}
        if numbers and (text := values - numbers - {_NULL_FOLDER}):
            found.append(
                f"folders {name}=...: some hold numbers, as {min(numbers)}, and some do not, as {min(text)}: all are "
                "read as text, which makes other ids than numbers do; name its type in source.expected_columns"
            )
    return found


def _frames(
    spark: SparkSession,
    read: ReadConfig,
    paths: list[SourcePath],
    layouts: list[FileLayout],
    columns: dict[str, str],
    of_folders: dict[str, str],
) -> list[DataFrame]:
    readable = {layout.path: layout for layout in layouts if layout.unreadable is None}
    frames = []
    for path in paths:
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for file in path.files:
            if file in readable:
                groups[tuple(readable[file].columns) if read.format == "csv" else ()].append(file)
        for header, files in groups.items():
            types = {name: columns.get(name, "string") for name in header or columns}
            own = {name: kind for name, kind in of_folders.items() if name in path.folder_columns()}
            frames.append(_open(spark, read, path, files, types | own))
    return frames


def _open(
    spark: SparkSession, read: ReadConfig, path: SourcePath, files: list[str], types: dict[str, str]
) -> DataFrame:
    schema = T.StructType([T.StructField(name, _type(name, kind)) for name, kind in types.items()])
    reader = spark.read.options(**read.options)
    if path.base is not None:
        reader = reader.option("basePath", path.base)
    if read.format == "csv":
        options = {**csv_options(read), "mode": "PERMISSIVE", "columnNameOfCorruptRecord": MALFORMED_COLUMN}
        frame = reader.options(**options).schema(schema.add(MALFORMED_COLUMN, "string")).csv(files)
    else:
        frame = reader.schema(schema).parquet(*files)
    return frame.withColumn(FILE_COLUMN, _file_path())


def _read_delta(spark: SparkSession, read: ReadConfig, wanted: dict[str, str] | None) -> RawSource:
    frames, layouts = [], []
    for path in read.paths:
        reader = spark.read.format("delta").options(**read.options)
        if read.delta_version is not None:
            reader = reader.option("versionAsOf", str(read.delta_version))
        try:
            frame = reader.load(expand(path))
        except PySparkException as error:
            raise ContractError(f"source path {path}: no Delta table to read: {str(error).splitlines()[0]}") from error
        frames.append(frame.withColumn(FILE_COLUMN, _file_path()))
        layouts.append(FileLayout(path, {f.name: f.dataType.simpleString() for f in frame.schema}))
    columns = common_columns(layouts, wanted, typed=True)
    frame = reduce(DataFrame.unionByName, [frame.select(*columns, FILE_COLUMN) for frame in frames])
    return RawSource(frame, list(columns), len(frames), warnings=_extra_warning(read, extra_columns(layouts, columns)))


def _file_path() -> Column:
    return F.regexp_replace(F.col("_metadata.file_path"), "^file:/+", "/")


def _kept(frame: DataFrame, names: list[str]) -> list[str]:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise BadDataError(f"column {missing[0]} is a folder's name (name=value) in some paths of the source only")
    return [*names, FILE_COLUMN, *([MALFORMED_COLUMN] if MALFORMED_COLUMN in frame.columns else [])]


def _type(column: str, kind: str) -> T.DataType:
    try:
        return T.DataType.fromDDL(kind)
    except PySparkException as error:
        raise ContractError(
            f"source.expected_columns.{column}: got {kind!r}; allowed: a Spark type as in bigint, double or array<int>"
        ) from error


def _extra_warning(read: ReadConfig, extra: list[str]) -> list[str]:
    return [f"{', '.join(read.paths)}: columns {extra} are not in source.expected_columns; not read"] if extra else []


def find_broken_files(spark: SparkSession, read: ReadConfig) -> frozenset[str]:
    """Files whose header or footer is fine but whose rows cannot be read; every file is read once."""
    return frozenset(
        file for path in read.paths for file in find_files(spark, path).files if _breaks(spark, read, file)
    )


def _breaks(spark: SparkSession, read: ReadConfig, file: str) -> bool:
    layout = file_layouts(spark, read, [file])[0]
    if layout.unreadable is not None:
        return False
    try:
        frame = spark.read.options(**csv_options(read)).csv(file) if read.format == "csv" else spark.read.parquet(file)
        frame.write.format("noop").mode("overwrite").save()
    except Exception:
        return True
    return False
