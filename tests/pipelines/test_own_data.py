"""The README's example: CSV files of one's own to the report, by the command line alone."""

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.cli import main
from pipelines.context import RunContext

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SHOP = Path(__file__).parents[2] / "docs/examples/shop"
ROWS_PER_DAY = 1200
BAD_ROWS = ["2026-03-02T10:00:00Z,u1,bad-1,p1,1,9.99,phone,2", "not a time,u1,bad-2,p1,1,9.99,phone,1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the example's CSV files where its YAML file looks for them; two rows are bad."""
    folder = tmp_path_factory.mktemp("shop")
    data = folder / "docs/examples/shop/data"
    subprocess.run([sys.executable, SHOP / "make_csv.py", data, "11", str(ROWS_PER_DAY)], check=True)
    with (data / "shop-2026-03-02.csv").open("a", encoding="utf-8") as stream:
        stream.write("\n".join(BAD_ROWS) + "\n")
    return folder


@pytest.fixture
def shop(folder: Path, spark: "SparkSession", monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOOPFM_HOME", str(folder / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def test_check_tells_what_would_be_rejected(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(SHOP / "shop.yaml")]) == 0
    printed = capsys.readouterr().out
    assert f"{11 * ROWS_PER_DAY:,}" in printed
    assert "label basket outside {0, 1}" in printed
    assert "unparsable event_ts" in printed


def test_an_ingest_keeps_the_good_rows_and_sets_the_bad_ones_aside(shop: Path) -> None:
    assert main(["ingest", str(SHOP / "shop.yaml"), "--from", "2026-03-02"]) == 0
    store = RunContext.load(SHOP / "shop.yaml").store
    written = {table: store.ledger.coverage(table, {}) for table in ("examples", "labels", "quarantine")}
    rows = {table: [entry.rows for entry in entries.values()] for table, entries in written.items()}
    assert {table: (len(parts), sum(parts)) for table, parts in rows.items()} == {
        "examples": (4, ROWS_PER_DAY),
        "labels": (4, ROWS_PER_DAY),
        "quarantine": (4, len(BAD_ROWS)),
    }


@pytest.mark.slow
def test_csv_files_to_the_report(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = ["base", "control", "loopfm", "loopfm_kd"]
    assert main(["run", str(SHOP / "shop.yaml"), "--arms", *arms]) == 0
    printed = capsys.readouterr().out
    page = (shop / "home/shop/report.html").read_text(encoding="utf-8")
    for vertical in ("phone", "desktop"):
        assert f"shop / {vertical} (one seed: not a claim)" in printed
        assert f"<h2>{vertical}</h2>" in page
    for label in ("base", "+ control", "+ LoopFM", "+ LoopFM + KD", "FM itself", "FM on batch features"):
        assert re.search(rf"^ {re.escape(label)} +[01]\.\d{{4}}", printed, re.MULTILINE), printed
        assert f">{label}</th>" in page
    assert "gate" in printed
    assert str(shop / "home/shop/report.html") in printed
    assert "label basket outside {0, 1}" in page
    assert "unparsable event_ts" in page
