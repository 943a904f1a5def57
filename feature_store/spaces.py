"""Spaces: what makes vectors comparable. Their records are a small Delta table; the latest row of a space wins."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_store.errors import MissingInputError

if TYPE_CHECKING:
    from feature_store.tables import TableStore

ACTIVE, CLOSED = "active", "closed"

SPACES = pa.schema([("space_id", pa.string()), ("revision", pa.int64()), ("record", pa.string())])


@dataclass(frozen=True)
class SpaceRecord:
    """One space: FM version + capture layers + codec.

    Args:
        space_id: its name in every table.
        inputs_id: digest of the FM's feature declaration; names its fm_inputs.
        fm_train_cutoff: latest event_ts and label_available_at that any part of the space has used, epoch ms.
        training_lag_ms: delay after the cutoff until its tokens may be read.
        heads: verticals in the order of the logits.
        dim, bits: of the codec; a vector takes dim * bits / 8 bytes.
        captures: names of the captured layers.
        model_path, model_digest: the FM's file and its digest.
        run_id: MLflow run that made it.
        state: ``active`` (infer and segments run for it) or ``closed``.
        opened_at: when it was opened, epoch ms of the wall clock: of two with one cutoff the later is the newer.
        declaration: what the FM reads, as declared when it was trained (``pipelines.fm_declaration``); its inputs are
            written so until the space closes. Empty in records of spaces that were opened before it was kept.
    """

    space_id: str
    inputs_id: str
    fm_train_cutoff: int
    training_lag_ms: int
    heads: list[str]
    dim: int
    bits: int
    captures: list[str]
    model_path: str
    model_digest: str
    run_id: str
    state: str = ACTIVE
    opened_at: int = 0
    declaration: dict[str, Any] = field(default_factory=dict)

    @property
    def code_bytes(self) -> int:
        """Bytes of one packed vector."""
        return self.dim * self.bits // 8


class SpaceRegistry:
    """Records of a data set's spaces."""

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def add(self, record: SpaceRecord) -> None:
        """Write a record; an older one of the same space is replaced."""
        revision = 1 + max(
            (int(row["revision"]) for row in self._rows() if row["space_id"] == record.space_id), default=0
        )
        row = {"space_id": record.space_id, "revision": revision, "record": json.dumps(asdict(record), sort_keys=True)}
        self._store.append_arrow("spaces", pa.Table.from_pylist([row], schema=SPACES))

    def all(self) -> list[SpaceRecord]:
        """Every space, in order of its cutoff, those of one cutoff as they were opened."""
        latest = {
            row["space_id"]: row for row in sorted(self._rows(), key=lambda row: (row["revision"], row["record"]))
        }
        records = [SpaceRecord(**json.loads(row["record"])) for row in latest.values()]
        return sorted(records, key=lambda record: (record.fm_train_cutoff, record.opened_at, record.space_id))

    def get(self, space_id: str) -> SpaceRecord:
        """The record of one space.

        Raises:
            MissingInputError: there is none.
        """
        found = {record.space_id: record for record in self.all()}
        if space_id not in found:
            raise MissingInputError(
                f"space {space_id} is not registered (known: {sorted(found) or 'none'}); `loopfm train-fm` makes one"
            )
        return found[space_id]

    def active(self) -> list[SpaceRecord]:
        """Spaces that infer and segments run for, the oldest first."""
        return [record for record in self.all() if record.state == ACTIVE]

    def open(self, space_id: str) -> bool:
        """Write a space from now on, also where it was closed; whether it was."""
        record = self.get(space_id)
        if record.state != ACTIVE:
            self.add(replace(record, state=ACTIVE))
        return record.state != ACTIVE

    def close(self, space_id: str) -> None:
        """Stop writing a space; its tables stay readable."""
        self.add(replace(self.get(space_id), state=CLOSED))

    def _rows(self) -> list[dict[str, str]]:
        if not self._store.exists("spaces"):
            return []
        return self._store.arrow("spaces", self._store.newest("spaces"), {}, None).to_pylist()
