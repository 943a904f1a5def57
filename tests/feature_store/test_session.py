from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from feature_store import session
from feature_store.session import default_memory

PROGRAM = """
import os
from feature_store.session import spark_session
spark = spark_session(master="local[2]", memory="512m", conf={"spark.sql.ansi.enabled": "false"})
spark.range(10).write.format("delta").save("table")
rows = spark.read.format("delta").load("table").mapInArrow(lambda batches: batches, "id long").count()
print("rows", rows, sorted(os.listdir(".")), spark.conf.get("spark.sql.ansi.enabled"))
"""


def test_settings_fit_a_small_machine(spark):
    conf = spark.conf
    assert conf.get("spark.sql.session.timeZone") == "UTC"
    assert conf.get("spark.databricks.delta.snapshotPartitions") == "2"
    assert conf.get("spark.sql.shuffle.partitions") == "2"
    assert spark.sparkContext.uiWebUrl is None
    assert spark.sparkContext.environment["OMP_NUM_THREADS"] == "1"


def test_workers_run_this_python(spark):
    def executable(_):
        yield sys.executable

    assert spark.sparkContext.parallelize([0], 1).mapPartitions(executable).collect() == [sys.executable]


def test_driver_carries_no_other_hadoop(spark):
    jars = [Path(path).name for path in spark.conf.get("spark.jars").split(",")]
    assert jars
    assert all(name.startswith(("io.delta_", "io.unitycatalog_")) for name in jars)


def test_default_memory_is_between_one_and_eight_gigabytes():
    assert 1024 <= int(default_memory().removesuffix("m")) <= 8192


def test_options_of_the_driver_come_from_outside(tmp_path, monkeypatch):
    monkeypatch.setenv(session.JAVA_OPTIONS_SETTING, "-XX:TieredStopAtLevel=1")
    options = session._driver_settings(tmp_path, "1g", local=True)["spark.driver.extraJavaOptions"]
    assert options.endswith(" -XX:TieredStopAtLevel=1")
    monkeypatch.delenv(session.JAVA_OPTIONS_SETTING)
    plain = session._driver_settings(tmp_path, "1g", local=True)["spark.driver.extraJavaOptions"]
    assert options == f"{plain} -XX:TieredStopAtLevel=1"


def test_a_lower_compiler_tier_keeps_a_whole_code_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(session.JAVA_OPTIONS_SETTING, "-XX:TieredStopAtLevel=1")
    options = session._driver_settings(tmp_path, "1g", local=True)["spark.driver.extraJavaOptions"].split()
    java = [option for option in options if option.startswith("-XX")]
    program = shutil.which("java", path=f"{os.environ.get('JAVA_HOME', '')}/bin:{os.environ['PATH']}")
    assert program is not None
    done = subprocess.run(
        [program, *java, "-XX:+PrintFlagsFinal", "-version"], capture_output=True, text=True, check=True
    )
    size = next(line.split("=")[1].split()[0] for line in done.stdout.splitlines() if "ReservedCodeCacheSize" in line)
    assert int(size) == 240 * 2**20


@pytest.mark.slow
def test_a_session_leaves_nothing_but_the_table_and_says_nothing(tmp_path):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{PROGRAM}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert done.stdout.strip() == "rows 10 ['table'] false"
    noise = [line for line in done.stderr.splitlines() if "incubator modules" not in line]
    assert noise == []
