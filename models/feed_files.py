"""Pinned Parquet files as a caller lists them, and reading them; knows neither Delta nor where the list is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from models.errors import FeatureMismatchError, SpaceMismatchError
from models.vm_data import RAW_SPACE, HistoryKey


class DataFile(Protocol):
    """A Parquet file of a pinned table version."""

    @property
    def path(self) -> str:
        """Path or URI."""

    @property
    def partition(self) -> Mapping[str, str]:
        """Values of the partition columns, ``part`` among them."""

    @property
    def rows(self) -> int:
        """Number of rows."""


@dataclass(frozen=True)
class FeedFiles:
    """Files that one VM reads: table ``features`` of its vertical, table ``histories`` by key, FM and raw apart."""

    features: Sequence[DataFile]
    histories: Mapping[str, Sequence[DataFile]] = field(default_factory=dict)
    raw_histories: Mapping[str, Sequence[DataFile]] = field(default_factory=dict)

    def of(self, key: HistoryKey) -> Sequence[DataFile]:
        """Files of one history key.

        Raises:
            FeatureMismatchError: no files of this key were given.
        """
        space, name = key
        files = (self.raw_histories if space == "raw" else self.histories).get(name)
        if files is None:
            known = sorted(self.raw_histories if space == "raw" else self.histories)
            raise FeatureMismatchError(f"history key {name} ({space}): a reader needs it; histories given: {known}")
        return files


def check_spaces(files: FeedFiles, keys: Sequence[HistoryKey], space_id: str) -> None:
    """Every history file of ``keys`` is of the space its reader expects.

    Raises:
        SpaceMismatchError: names the space found and the one expected.
    """
    for key in keys:
        expected = RAW_SPACE if key[0] == "raw" else space_id
        for file in files.of(key):
            found = file.partition["space_id"]
            if found != expected:
                raise SpaceMismatchError(
                    f"histories of key {key[1]} are of space {found}, the VM reads space {expected}: "
                    f"backfill histories of {expected}, or train a VM on {found} ({file.path})"
                )


def by_part(files: Sequence[DataFile]) -> dict[str, list[DataFile]]:
    """Files of each partition, partitions and files in rising order."""
    parts: dict[str, list[DataFile]] = {}
    for file in sorted(files, key=lambda f: (f.partition["part"], f.path)):
        parts.setdefault(file.partition["part"], []).append(file)
    return parts


def open_file(file: DataFile, columns: Sequence[str]) -> pq.ParquetFile:
    """Open a file and see that it has the columns.

    Raises:
        FeatureMismatchError: names file and columns that it lacks.
    """
    filesystem, path = pa.fs.FileSystem.from_uri(file.path) if "://" in file.path else (None, file.path)
    parquet = pq.ParquetFile(path, filesystem=filesystem, memory_map=filesystem is None)
    missing = sorted(set(columns) - set(parquet.schema_arrow.names))
    if missing:
        raise FeatureMismatchError(f"{file.path}: no column {missing}; write the table again with these columns")
    return parquet


def read_file(file: DataFile, columns: Sequence[str]) -> pa.Table:
    """All rows of a file, these columns."""
    with open_file(file, columns) as parquet:
        return parquet.read(columns=list(columns), use_threads=False)


def stream_file(file: DataFile, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """A file in slices of at most ``rows`` rows, in its order, never held whole."""
    with open_file(file, columns) as parquet:
        for batch in parquet.iter_batches(batch_size=rows, columns=list(columns), use_threads=False):
            yield pa.Table.from_batches([batch])
