"""Two Spark drivers commit to one table on an object store: nothing is lost.

``python -m tests.servers.test_two_drivers COUNT`` does it COUNT times each and prints the figures.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
import pytest

from feature_store import commit_lock
from feature_store.tables import TableStore
from tests.conftest import make_dataset
from tests.servers import committer
from tests.servers.compose import ROOT
from tests.servers.services import address, object_store, postgres

BUCKET = "tables"
STORE = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def drivers(root, count, locks):
    """Start a driver for each address of a lock, let them off together; returns their commits as (part, version)."""
    processes = []
    for number, lock in enumerate(locks):
        command = [sys.executable, "-m", "tests.servers.committer", root, str(number), str(count)]
        environment = os.environ | {commit_lock.LOCK_SETTING: lock}
        processes.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        texts = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [(line.split()[0], int(line.split()[1])) for text in texts for line in text.splitlines()]


def kept(root, count, commits):
    """Commits of the log, partitions with all their rows, partitions that the ledger names as done."""
    store = TableStore(root, make_dataset())
    own = [commit for commit in map(store.log("labels").read, store.log("labels").versions()) if commit.metadata]
    head = max(version for _, version in commits)
    rows = store.arrow("labels", head, {}, None, ["part", "example_id"]).to_pylist()
    found = {(row["part"], row["example_id"]) for row in rows}
    parts = [part for number in range(2) for part in committer.parts_of(store, number, count)]
    whole = [p for p in parts if {(p, row["example_id"]) for row in committer.rows_of(store, p)} <= found]
    done = [part for part, entry in store.ledger.coverage("labels", {}).items() if entry.done]
    return len(own), len(whole), len(done)


def measured(count, patch, *, shared=True):
    """Run it; returns commits kept in log, table and ledger, and seconds. Not ``shared``: locks of two databases."""
    with tempfile.TemporaryDirectory() as folder, postgres() as port, object_store(Path(folder)) as endpoint:
        for name, value in (STORE | {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"}).items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        patch.setenv(commit_lock.LOCK_SETTING, address(port, "loopfm"))
        root = f"s3a://{BUCKET}/home/tiny/tables"
        started = time.monotonic()
        commits = drivers(root, count, [address(port, "loopfm"), address(port, "loopfm" if shared else "mlflow")])
        return *kept(root, count, commits), time.monotonic() - started


@pytest.mark.slow
def test_two_drivers_on_one_table_lose_nothing(monkeypatch):
    assert measured(10, monkeypatch)[:3] == (20, 20, 20)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as changed:
        figures = measured(int(sys.argv[1]), changed, shared=sys.argv[2:] != ["--apart"])
    print("commits in the log {}, whole partitions {}, done in the ledger {}, {:.0f} s".format(*figures))
