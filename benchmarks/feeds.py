"""Feeds of the vertical model that know how long their epochs took, and one that holds every batch ready."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from models.feed import FeatureFeed
from models.vm_data import VmBatch
from models.vm_encoder import VmEncoder


class TimedFeed(FeatureFeed):
    """A feed that times its epochs: from asking for the first batch until the last one was used.

    ``epoch_seconds`` and ``epoch_rows`` have one element a finished epoch.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.epoch_seconds: list[float] = []
        self.epoch_rows: list[int] = []

    def batches(self, encoder: VmEncoder, batch_size: int, shuffle_seed: int | None = None) -> Iterator[VmBatch]:
        """One pass, timed."""
        start, rows = time.perf_counter(), 0
        for batch in self.untimed(encoder, batch_size, shuffle_seed):
            rows += len(batch)
            yield batch
        self.epoch_seconds.append(time.perf_counter() - start)
        self.epoch_rows.append(rows)

    def untimed(self, encoder: VmEncoder, batch_size: int, shuffle_seed: int | None = None) -> Iterator[VmBatch]:
        """One pass."""
        return super().batches(encoder, batch_size, shuffle_seed)

    def rows_per_second(self, first_epoch: int) -> float:
        """Over all epochs from ``first_epoch`` (0 is the first) on."""
        return sum(self.epoch_rows[first_epoch:]) / sum(self.epoch_seconds[first_epoch:])


class ReadyFeed(TimedFeed):
    """All batches of an epoch as tensors in memory, cut beforehand: what training costs when feeding costs nothing.

    Every epoch repeats the same batches.
    """

    def __init__(self, *args: Any, batch_size: int, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._fitted = super().fit_encoder()
        self._ready = list(super().untimed(self._fitted[0], batch_size, 0))

    def fit_encoder(self, start: VmEncoder | None = None, fit_rows: int = 0) -> tuple[VmEncoder, float]:
        """The encoder that the batches were made with."""
        return self._fitted

    def untimed(self, encoder: VmEncoder, batch_size: int, shuffle_seed: int | None = None) -> Iterator[VmBatch]:
        """The same batches as ever."""
        return iter(self._ready)
