"""What stored histories cost by key, and which rows see a token: from files and scores to a table and figures."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.experiment_figures import ArmScores
from benchmarks.experiment_histories import StoredHistories, add_histories, history_rows, stored_histories
from benchmarks.harness import Report
from feature_store.store_files import DataFile
from models.metrics import Scores

FILES = {
    "s": [("item", 10, 500), ("user", 4, 100), ("user", 6, 300)],
    "raw": [("user", 5, 50)],
}
IDS = {"s": {"item": [1, 2, 2], "user": [1, 1]}, "raw": {"user": [7]}}


def context():
    def files(table, version, scope, parts):
        assert (table, version, parts) == ("histories", "pin", ["01", "02"])
        return [DataFile("f", {"key": key}, rows, size) for key, rows, size in FILES[scope["space_id"]]]

    def arrow(table, version, scope, parts, columns):
        rows = [(key, each) for key, ids in IDS[scope["space_id"]].items() for each in ids]
        return pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))

    return SimpleNamespace(
        pin=lambda table, scope, parts: "pin", store=SimpleNamespace(files=files, arrow=arrow)
    )  # fmt: skip


def test_bytes_and_keys_are_of_each_key_and_kind_of_tokens():
    assert stored_histories(context(), "s", ["01", "02"]) == {
        "fm_item": StoredHistories(2, 50.0),
        "fm_user": StoredHistories(1, 40.0),
        "raw_user": StoredHistories(1, 10.0),
    }


def test_the_table_and_the_figures_hold_every_key_and_vertical():
    stored = {"fm_item": StoredHistories(1234, 554.4), "raw_user": StoredHistories(2, 10.0)}
    coverage = {"feed": {"fm_item": 0.43}, "shop": {"fm_item": 0.5, "raw_user": 1.0}}
    head, rows = history_rows(stored, coverage)
    assert head[3:] == ["rows that see a token, feed", "rows that see a token, shop"]
    assert rows == [["item (FM tokens)", "1,234", "554", "43 %", "50 %"], ["user (raw tokens)", "2", "10", "", "100 %"]]
    made = Report("x", say=lambda line: None)
    add_histories(made, "demo", stored, coverage)
    assert {figure.name: figure.value for figure in made.figures} == {
        "demo_fm_item_history_bytes": 554.4,
        "demo_raw_user_history_bytes": 10.0,
        "demo_feed_fm_item_coverage": 0.43,
        "demo_shop_fm_item_coverage": 0.5,
        "demo_shop_raw_user_coverage": 1.0,
    }


def test_coverage_is_of_the_keys_that_some_arm_reads_over_all_seeds():
    assert ArmScores({"base": [seen({})], "loopfm": [seen({"fm_item": 1}), seen({"fm_item": 3})]}).coverage == {
        "fm_item": pytest.approx(0.5)
    }


def seen(rows):
    """Scores of 4 rows; ``rows``: how many see a token of each key."""
    ids, ones, label = np.arange(4), np.ones(4), np.array([0.0, 1.0, 0.0, 1.0])
    has = {key: ids < count for key, count in rows.items()}
    return Scores(ids, ids, ids, np.zeros(4, bool), ids, label, ones, ones, ones / 2, has)
