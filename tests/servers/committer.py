"""A Spark driver of its own that commits to one table: python -m tests.servers.committer ROOT NUMBER COUNT."""

from __future__ import annotations

import sys
import time

from feature_store.session import spark_session
from feature_store.tables import TableStore
from tests.conftest import make_dataset
from tests.feature_store.store_world import commit, label

START = "2026-01-01"
ROWS = 3


def parts_of(store: TableStore, number: int, count: int) -> list[str]:
    """Every second day: the two drivers write one table, never one partition."""
    days = store.clock.between(START, store.clock.next(START, 2 * count - 1))
    return days[number::2]


def rows_of(store: TableStore, part: str) -> list[dict]:
    first = int(store.clock.start(part) // 86_400_000) * 10
    return [label(store, part, first + number) for number in range(ROWS)]


def main() -> None:
    root, number, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = TableStore(root, make_dataset())
    spark = spark_session(f"committer {number}", master="local[1]", memory="600m", s3=True)
    print("ready", flush=True)
    sys.stdin.readline()
    for part in parts_of(store, number, count):
        started = time.monotonic()
        version = commit(spark, store, rows_of(store, part), [part])
        print(f"{part} {version} {time.monotonic() - started:.2f}", flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
