"""The one place that makes Spark sessions: settings by size of machine, Delta, quiet logs, nothing left in the cwd.

Spark's and Delta's defaults are made for clusters (200 shuffle partitions, 50 snapshot partitions, progress bars); on
tables of a few thousand rows they cost ten times the work itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from feature_store.class_archive import archive_options
from feature_store.errors import SparkStartError
from feature_store.jars import delta_jars, s3_jars
from feature_store.object_store import s3a_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MASTER_SETTING = "LOOPFM_SPARK_MASTER"
MEMORY_SETTING = "LOOPFM_SPARK_MEMORY"
JAVA_OPTIONS_SETTING = "LOOPFM_SPARK_JAVA_OPTIONS"
SHIPPED_PACKAGES = ("feature_store", "models", "pipelines")
_JVM_END_SECONDS = 2

_LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %p spark %c{1}: %m%n%ex{3}
logger.native.name = org.apache.hadoop.util.NativeCodeLoader
logger.native.level = error
logger.parquet.name = org.apache.parquet
logger.parquet.level = error
logger.window.name = org.apache.spark.sql.execution.window
logger.window.level = error
logger.plan.name = org.apache.spark.sql.catalyst.util.SparkStringUtils
logger.plan.level = error
"""

# A failed job's cause is in the exception that the driver raises; these print its stack trace three times more.
_LOG4J += "".join(
    f"logger.{name.rsplit('.')[-1]}.name = {name}\nlogger.{name.rsplit('.')[-1]}.level = off\n"
    for name in (
        "org.apache.spark.executor.Executor",
        "org.apache.spark.scheduler.TaskSetManager",
        "org.apache.spark.sql.delta.files.DeltaFileFormatWriter",
    )
)


def spark_session(
    app: str = "loopfm",
    master: str | None = None,
    memory: str | None = None,
    conf: dict[str, str] | None = None,
    *,
    s3: bool = False,
) -> SparkSession:
    """The process's Spark session; a second call returns the same one.

    Args:
        app: name shown in Spark's UI.
        master: any Spark master; LOOPFM_SPARK_MASTER, else ``local[*]``.
        memory: driver heap such as ``1g``; LOOPFM_SPARK_MEMORY, else a sixteenth of the machine, 1 to 8 GB.
        conf: settings on top of those made here.
        s3: tables or sources lie on an S3-compatible store.

    LOOPFM_SPARK_JAVA_OPTIONS adds options of the driver's JVM. On partitions of a few thousand rows most of a step's
    time is compilation: ``-XX:TieredStopAtLevel=1`` shortens it there, and slows large partitions.

    Raises:
        JarsError: Delta's jars, or those of S3, are not cached and cannot be resolved.
        SparkStartError: Spark could not start; the message says what to look at.
    """
    master = master or os.environ.get(MASTER_SETTING) or "local[*]"
    memory = memory or os.environ.get(MEMORY_SETTING) or default_memory()
    scratch = _scratch_folder()
    local = master.startswith("local")
    _set_environment(local)
    settings = _delta_settings(s3) | _sql_settings(local, _cores(master)) | _driver_settings(scratch, memory, local)
    return _start(app, master, settings | (conf or {}), scratch, local)


def default_memory() -> str:
    """Driver heap by size of machine: small, since Python workers and trainers live beside it."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{int(max(1.0, min(8.0, gigabytes / 16)) * 1024)}m"


def lost_jvm(error: BaseException) -> str | None:
    """How this process's Spark JVM ended, where that is behind ``error``; None while it runs, or where there is none.

    A call into a JVM that was killed fails in many ways (py4j's network errors, refused connections, end of file), and
    later calls in yet others: the process itself is what tells.
    """
    from py4j.protocol import Py4JError, Py4JJavaError
    from pyspark import SparkContext

    process = getattr(SparkContext._gateway, "proc", None)
    if process is None:
        return None
    if isinstance(error, Py4JError | OSError | EOFError) and not isinstance(error, Py4JJavaError):
        with contextlib.suppress(subprocess.TimeoutExpired):  # the connection breaks before the process has ended
            process.wait(_JVM_END_SECONDS)
    status = process.poll()
    if status is None:
        return None
    how = f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"status {status}"
    return f"Spark's JVM (process {process.pid}) ended with {how}"


def _start(app: str, master: str, settings: dict[str, str], scratch: Path, local: bool) -> SparkSession:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(app).master(master)
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
    except Exception as error:
        raise SparkStartError(
            f"Spark did not start on master {master!r} with {settings['spark.driver.memory']} of heap: {error}; "
            f"Java 17 or newer must be on PATH or in JAVA_HOME ({MASTER_SETTING} and {MEMORY_SETTING} set the others)"
        ) from error
    if not local:
        spark.sparkContext.addPyFile(str(_zipped_code(scratch)))
    return spark


def _set_environment(local: bool) -> None:
    # Workers otherwise start the system's python3, which has none of the packages.
    if local:
        os.environ["PYSPARK_PYTHON"] = sys.executable
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    else:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable


def _delta_settings(s3: bool) -> dict[str, str]:
    jars = delta_jars() + (s3_jars() if s3 else [])
    return (s3a_settings() if s3 else {}) | {
        "spark.jars": ",".join(str(path) for path in jars),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "2",
        # An empty partition is a valid state and its commit carries the ledger entry.
        "spark.databricks.delta.skipRecordingEmptyCommits": "false",
        "spark.sql.parquet.compression.codec": "zstd",
    }


def _sql_settings(local: bool, cores: int) -> dict[str, str]:
    settings = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "4096",
        "spark.sql.debug.maxToStringFields": "1000",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
    }
    if local:
        settings["spark.sql.shuffle.partitions"] = str(cores)
    return settings


def _driver_settings(scratch: Path, memory: str, local: bool) -> dict[str, str]:
    log4j = scratch / "log4j2.properties"
    log4j.write_text(_LOG4J)
    # Options that lower the compiler's tier also lower the code cache, to 48 MB: a session of a minute fills it, and a
    # JVM without room for a method handle ends with status 50.
    code_cache = "-XX:ReservedCodeCacheSize=240m"
    options = f"-Dlog4j2.configurationFile=file:{log4j} -Dderby.system.home={scratch} -XX:+UseParallelGC {code_cache}"
    options = " ".join([options, *archive_options(), os.environ.get(JAVA_OPTIONS_SETTING, "")]).strip()
    settings = {
        "spark.driver.memory": memory,
        "spark.driver.extraJavaOptions": options,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "WARN",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
    }
    if local:
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    return settings


def _cores(master: str) -> int:
    count = master.removeprefix("local").strip("[]").split(",")[0]
    if count.isdigit():
        return int(count)
    return len(os.sched_getaffinity(0)) if count == "*" else 1


def _scratch_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="loopfm-spark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _zipped_code(scratch: Path) -> Path:
    """The packages that run inside executors, zipped as this process runs them."""
    root = Path(__file__).resolve().parent.parent
    target = scratch / "loopfm_code.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in SHIPPED_PACKAGES:
            for path in sorted((root / package).rglob("*.py")):
                archive.write(path, path.relative_to(root))
    return target
