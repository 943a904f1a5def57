"""Feeds that read wrongly on purpose: the histories of other examples, or one's own as of a later instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from models.feed import FeatureFeed
from models.vm_data import HistoryBatch, VmBatch
from models.vm_encoder import VmEncoder


class ShuffledFeed(FeatureFeed):
    """The rows of another feed; within each batch, histories are dealt out anew.

    Args:
        feed: the feed to read; its files and settings are taken over.
    """

    def __init__(self, feed: FeatureFeed) -> None:
        super().__init__(feed.files, feed.inputs, feed.config, known_at=feed.known_at, buffer_rows=feed.buffer_rows)

    def batches(self, encoder: VmEncoder, batch_size: int, shuffle_seed: int | None = None) -> Iterator[VmBatch]:
        """Batches of the feed, with histories of other examples of the same batch."""
        generator = torch.Generator().manual_seed(0 if shuffle_seed is None else shuffle_seed)
        for batch in super().batches(encoder, batch_size, shuffle_seed):
            order = torch.randperm(len(batch), generator=generator)
            histories = {key: HistoryBatch(own.index[order], own.pool) for key, own in batch.histories.items()}
            yield replace(batch, histories=histories)


class ShiftedFeed(FeatureFeed):
    """The rows of another feed, whose examples read labels and ages of tokens as of a later instant.

    Args:
        feed: the feed to read; its files and settings are taken over.
        shift_ms: how much later.
    """

    def __init__(self, feed: FeatureFeed, shift_ms: int) -> None:
        super().__init__(feed.files, feed.inputs, feed.config, known_at=feed.known_at, buffer_rows=feed.buffer_rows)
        self.shift_ms = shift_ms

    def batches(self, encoder: VmEncoder, batch_size: int, shuffle_seed: int | None = None) -> Iterator[VmBatch]:
        """Batches of the feed at later instants."""
        for batch in super().batches(encoder, batch_size, shuffle_seed):
            yield replace(batch, event_ts=batch.event_ts + self.shift_ms)
