"""What stored histories cost on disk, by key, and how many rows see a token of each: the table beside the arms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.experiment_output import percent
from benchmarks.harness import Report
from feature_store.config import RAW_SPACE
from pipelines.context import RunContext
from pipelines.report_rows import history_label

Coverage = Mapping[str, float]
"""Tokens and key (``fm_item``) -> share of the rows that see a token of it."""


@dataclass(frozen=True)
class StoredHistories:
    """The stored histories of one key.

    Args:
        keys: how many users, items .. have one.
        bytes_each: on disk, mean of one stored history.
    """

    keys: int
    bytes_each: float


def stored_histories(context: RunContext, space_id: str, parts: Sequence[str]) -> dict[str, StoredHistories]:
    """Histories that rows of ``parts`` read, by tokens and key (``fm_item``): of a space, then raw ones."""
    return {
        f"{tokens}_{key}": found
        for tokens, scope in (("fm", {"space_id": space_id}), (RAW_SPACE, {"space_id": RAW_SPACE}))
        for key, found in _by_key(context, scope, list(parts)).items()
    }


def _by_key(context: RunContext, scope: dict[str, str], parts: list[str]) -> dict[str, StoredHistories]:
    pin = context.pin("histories", scope, parts)
    ids = context.store.arrow("histories", pin, scope, parts, ["key", "key_id"])
    files = context.store.files("histories", pin, scope, parts)
    found = {}
    for key in sorted({file.partition["key"] for file in files}):
        own = [file for file in files if file.partition["key"] == key]
        each = sum(file.size for file in own) / max(1, sum(file.rows for file in own))
        found[key] = StoredHistories(_distinct(ids, key), each)
    return found


def _distinct(ids: pa.Table, key: str) -> int:
    count: int = pc.count_distinct(ids.filter(pc.equal(ids["key"], key))["key_id"]).as_py()
    return count


def history_rows(
    stored: Mapping[str, StoredHistories], coverage: Mapping[str, Coverage]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of keys; ``coverage`` by vertical. A key that no arm reads has none."""
    head = ["history", "keys", "bytes a history", *(f"rows that see a token, {name}" for name in coverage)]
    rows = []
    for key, of in stored.items():
        shares = [percent(found.get(key, math.nan)) for found in coverage.values()]
        rows.append([history_label(key), f"{of.keys:,}", f"{of.bytes_each:,.0f}", *shares])
    return head, rows


def add_histories(
    report: Report, name: str, stored: Mapping[str, StoredHistories], coverage: Mapping[str, Coverage]
) -> None:
    """Record bytes of a stored history of each key, and its coverage in each vertical."""
    for key, of in stored.items():
        report.add(f"{name}_{key}_history_bytes", of.bytes_each)
    for vertical, found in coverage.items():
        for key, share in found.items():
            report.add(f"{name}_{vertical}_{key}_coverage", share)
