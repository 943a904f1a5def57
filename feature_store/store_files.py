"""Where tables live, and the data files of a pinned version: listed by delta-rs, read by pyarrow, no JVM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import DeltaTable

from feature_store.object_store import s3_uri, s3a_uri


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table.

    Args:
        path: absolute path or URI.
        partition: partition column -> value; these columns are not in the file.
        rows: number of rows.
        size: bytes.
    """

    path: str
    partition: dict[str, str]
    rows: int
    size: int


class Location:
    """The folder or URI that holds a data set's tables."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/") if "://" in root else str(Path(root).expanduser().resolve())
        self.local = "://" not in self.root

    def spark(self, table: str) -> str:
        """Path of a table as Spark spells it."""
        return s3a_uri(f"{self.root}/{table}")

    def uri(self, table: str) -> str:
        """Path of a table as delta-rs and pyarrow spell it (s3, not s3a)."""
        return s3_uri(f"{self.root}/{table}")

    def filesystem(self, table: str) -> pafs.FileSystem:
        """A file system whose root is the table."""
        if self.local:
            return pafs.SubTreeFileSystem(self.uri(table), pafs.LocalFileSystem())
        base, path = pafs.FileSystem.from_uri(self.uri(table))
        return pafs.SubTreeFileSystem(path, base)


def matching_files(table: DeltaTable, location: str, where: Mapping[str, Iterable[str]]) -> list[DataFile]:
    """Files whose partition values are among those of ``where`` (column -> allowed values), sorted by partition."""
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = [name.removeprefix("partition.") for name in actions.column_names if name.startswith("partition.")]
    allowed = {column: frozenset(values) for column, values in where.items()}
    found = []
    values = zip(*(actions[f"partition.{c}"].to_pylist() for c in columns), strict=True)
    facts = zip(*(actions[c].to_pylist() for c in ("path", "num_records", "size_bytes")), strict=True)
    for (path, rows, size), partition in zip(facts, values if columns else [()] * actions.num_rows, strict=True):
        named = dict(zip(columns, partition, strict=True))
        if all(named[column] in chosen for column, chosen in allowed.items()):
            found.append(DataFile(f"{location}/{path}", named, int(rows or 0), int(size)))
    return sorted(found, key=lambda file: (tuple(file.partition.values()), file.path))


def read_files(
    files: list[DataFile], location: str, filesystem: pafs.FileSystem, schema: pa.Schema, columns: list[str] | None
) -> pa.Table:
    """Rows of ``files`` in their order, partition columns re-attached."""
    names = columns or schema.names
    kept = pa.schema([schema.field(name) for name in names])
    if not files:
        return kept.empty_table()
    parquet = ds.ParquetFileFormat()
    fragments = [
        parquet.make_fragment(
            file.path.removeprefix(f"{location}/"), filesystem, partition_expression=_expression(file.partition)
        )
        for file in files
    ]
    dataset = ds.FileSystemDataset(fragments, schema, parquet, filesystem)
    return dataset.to_table(columns=names).cast(kept)


def _expression(partition: dict[str, str]) -> ds.Expression | None:
    expression = None
    for column, value in partition.items():
        equal = ds.field(column) == value
        expression = equal if expression is None else expression & equal
    return expression
