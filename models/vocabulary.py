"""Ids to embedding rows: a frequency-capped vocabulary with a vectorised hash lookup."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

UNSEEN = 0

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SLOTS_PER_ID = 8


class Vocabulary:
    """Maps int64 ids to rows 1..V of an embedding table; row 0 stands for every unseen id.

    Args:
        ids: distinct ids, the one of row 1 first.
    """

    def __init__(self, ids: Ids) -> None:
        self.ids = np.ascontiguousarray(ids, dtype=np.int64)
        order = np.argsort(self.ids, kind="stable")
        self._sorted, self._rows = self.ids[order], order + 1
        bits = max(4, int(len(self.ids) * _SLOTS_PER_ID).bit_length())
        self._shift = np.uint64(64 - bits)
        # Slot -> row; where ids collide the highest row stays and the others are found by binary search.
        self._table = np.zeros(1 << bits, dtype=np.int32)
        self._table[self._slots(self.ids)] = np.arange(1, len(self.ids) + 1, dtype=np.int32)
        self._id_of_row = np.concatenate([np.zeros(1, np.int64), self.ids])

    @classmethod
    def fit(cls, ids: Ids, limit: int) -> Vocabulary:
        """The ``limit`` most frequent of ``ids`` (ties: the smaller id), rows in rising order of id."""
        values, counts = np.unique(ids, return_counts=True)
        kept = np.argsort(-counts, kind="stable")[:limit]
        return cls(np.sort(values[kept]))

    @property
    def rows(self) -> int:
        """Rows of an embedding table for this vocabulary, the one of unseen ids included."""
        return len(self.ids) + 1

    def extend(self, ids: Ids, limit: int) -> Vocabulary:
        """Keep every row and append the most frequent new ids, up to ``limit`` ids in all."""
        new = ids[self.lookup(ids) == UNSEEN]
        added = Vocabulary.fit(new, max(0, limit - len(self.ids))).ids
        return Vocabulary(np.concatenate([self.ids, added]))

    def lookup(self, ids: Ids) -> Ids:
        """Row of every id, any shape; 0 where unseen."""
        flat = np.ascontiguousarray(ids, dtype=np.int64).reshape(-1)
        rows = self._table[self._slots(flat)].astype(np.int64)
        collided = np.flatnonzero((self._id_of_row[rows] != flat) & (rows != UNSEEN))
        if len(collided):
            rows[collided] = self._search(flat[collided])
        return rows.reshape(ids.shape)

    def _slots(self, ids: Ids) -> npt.NDArray[np.int64]:
        return ((ids.view(np.uint64) * _MULTIPLIER) >> self._shift).astype(np.int64)

    def _search(self, ids: Ids) -> Ids:
        at = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        return np.where(self._sorted[at] == ids, self._rows[at], UNSEEN)
