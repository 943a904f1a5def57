"""What a VM reads of two projects: batches of the feed, tokens gathered and labels masked by the VMs' own code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pyarrow.compute as pc
import torch

from feature_store.spaces import SpaceRecord
from models.feed import FeatureFeed
from models.vm_data import VmBatch, gather_tokens
from models.vm_encoder import VmEncoder
from pipelines.config import Arm
from pipelines.context import RunContext
from pipelines.vm_rows import feed, pin_rows

ARM: Arm = "raw_loopfm_kd"
"""The arm that reads all that there is: raw and FM tokens, the teacher."""
BATCH_ROWS = 4096
ROWS = 20_000
"""Examples of a vertical that are compared at most."""


def changed_reads(honest: RunContext, noisy: RunContext, space: SpaceRecord, parts: list[str], instant: int) -> int:
    """Examples of ``parts`` known at ``instant`` whose VM reads something else in the noised project."""
    changed = 0
    for vertical in honest.dataset.heads:
        feeds = [_feed(context, space, vertical, parts) for context in (honest, noisy)]
        encoder, _ = feeds[0].fit_encoder()
        wanted = _known(honest, parts, instant)
        before, after = (dict(_digests(own, encoder, wanted)) for own in feeds)
        changed += sum(after.get(example) != seen for example, seen in before.items())
    return changed


def _feed(context: RunContext, space: SpaceRecord, vertical: str, parts: list[str]) -> FeatureFeed:
    config = context.config.vm.arm(ARM).model_copy(update={"counters": True})
    return feed(context, vertical, config, pin_rows(context, space, parts), parts, None)


def _known(context: RunContext, parts: list[str], instant: int) -> set[int]:
    columns = ["example_id", "event_ts", "arrived_at"]
    rows = context.store.arrow("examples", context.pin("examples", {}, parts), {}, parts, columns)
    known = rows.filter(pc.less_equal(pc.max_element_wise(rows["event_ts"], rows["arrived_at"]), instant))
    ids = known["example_id"].to_pylist()
    return set(sorted(ids)[:ROWS])


def _digests(own: FeatureFeed, encoder: VmEncoder, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    for batch in own.batches(encoder, BATCH_ROWS):
        places = [place for place, example in enumerate(batch.example_id.tolist()) if example in wanted]
        if places:
            yield from _digests_of(batch.take(torch.tensor(places)))


def _digests_of(batch: VmBatch) -> Iterator[tuple[int, bytes]]:
    """Digest of all that each example shows, its own label apart."""
    shown: list[Any] = [batch.cat, batch.num, batch.teacher_logit, *batch.lists.values(), *batch.masks.values()]
    rows = [hashlib.sha256(b"".join(part[row].numpy().tobytes() for part in shown)) for row in range(len(batch))]
    for history in batch.histories.values():
        lengths = history.lengths(None)
        (present,) = torch.nonzero(lengths > 0, as_tuple=True)
        if not len(present):
            continue
        tokens = gather_tokens(history.pool, history.index[present], lengths[present], batch.event_ts[present])
        parts = [getattr(tokens, part.name) for part in fields(tokens) if part.name != "mask"]
        for place, row in enumerate(present.tolist()):
            for part in parts:
                if part is not None:
                    rows[row].update(part[place, : lengths[row]].contiguous().numpy().tobytes())
    for example, digest in zip(batch.example_id.tolist(), rows, strict=True):
        yield example, digest.digest()
