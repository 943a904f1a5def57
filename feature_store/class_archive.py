"""A class-data archive for Spark's JVM: the classes of a session, loaded and verified once, then mapped into every JVM.

Starting a session loads some 20,000 classes, most of what a step on a small partition costs. The archive (JEP 350) lies
in the Python environment, since it holds for the very jars of its pyspark and for one Java only; a JVM that finds a
difference ignores it, and without one everything works, some seconds later.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_TIMEOUT_S = 600
_TRAINING = "--train"
_QUIET = ("-Xlog:cds*=off", "-Xlog:class+path=off")


def archive_options() -> list[str]:
    """Options of the JVM that make it use this environment's archive; none where there is no archive for its Java."""
    path = archive_path()
    if path is None or not path.is_file():
        return []
    return [f"-XX:SharedArchiveFile={path}", *_QUIET]


def archive_path() -> Path | None:
    """Where the archive of the Java in JAVA_HOME or on PATH lies; None where that Java does not say its version."""
    home = os.environ.get("JAVA_HOME")
    java = Path(home) / "bin" / "java" if home else Path(shutil.which("java") or "java")
    release = java.resolve().parent.parent / "release"
    if not release.is_file():
        return None
    digest = hashlib.sha256(f"{release}\n{release.read_text()}".encode()).hexdigest()
    return Path(sys.prefix) / f"spark-classes-{digest[:12]}.jsa"


def make_archive() -> Path | None:
    """Make the archive where it is missing, by a short session on a scratch table; about half a minute.

    Returns:
        Its path, or None where this Java made none.
    """
    from feature_store.session import JAVA_OPTIONS_SETTING, MASTER_SETTING

    path = archive_path()
    if path is None or path.is_file():
        return path
    with tempfile.TemporaryDirectory(prefix=".archive-", dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        options = " ".join([f"-XX:ArchiveClassesAtExit={made}", *_QUIET])
        environment = os.environ | {JAVA_OPTIONS_SETTING: options, MASTER_SETTING: "local[2]"}
        # The JVM writes the archive after its Python process has ended; it holds the pipe until then.
        command = [sys.executable, "-m", "feature_store.class_archive", _TRAINING, scratch]
        subprocess.run(command, env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False)
        if not made.is_file():
            return None
        made.chmod(0o644)
        made.replace(path)
    return path


def _train(folder: str) -> None:
    """Do once what the steps do: commit, read, join, window, group, and run Python in the workers."""
    from pyspark.sql import functions as F

    from feature_store.session import spark_session

    spark = spark_session("class-archive")
    rows = spark.range(2000).selectExpr("id", "id % 7 as key", "rand(1) as x", "cast(id as timestamp) as at")
    rows = rows.selectExpr("*", "named_struct('x', x, 'ids', array(id, key)) as token")
    table = f"{folder}/table"
    rows.repartitionByRange(2, "key").sortWithinPartitions("key", "id").write.format("delta").partitionBy("key").save(
        table
    )
    rows.write.format("delta").mode("overwrite").option("replaceWhere", "key < 7").save(table)
    read = spark.read.format("delta").load(table)
    newest = "row_number() over (partition by key order by at desc, id)"
    grouped = read.selectExpr("*", f"{newest} as rank").where("rank <= 50").groupBy("key")
    tokens = grouped.agg(F.sort_array(F.collect_list("token")).alias("tokens"), F.sum("x"), F.count("*"))
    joined = read.join(tokens, "key", "left").mapInArrow(iter, read.join(tokens, "key", "left").schema)
    joined.write.format("delta").save(f"{folder}/joined")
    spark.read.format("delta").load(f"{folder}/joined").orderBy("id").limit(10).toPandas()
    spark.read.parquet(f"{folder}/joined").createOrReplaceTempView("joined")
    counts = "select key, max(x), count(distinct id) from joined group by key"
    spark.sql(f"{counts} union all select key, x, id from joined").collect()
    spark.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == [_TRAINING]:
        _train(sys.argv[2])
    else:
        print(make_archive() or "this Java made no class archive: Spark sessions start some seconds later")
