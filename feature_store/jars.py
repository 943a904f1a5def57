"""Delta's jars, resolved once through Spark's own package resolution and kept in a cache.

Only Delta's and Unity Catalog's own jars are taken: whatever else the package asks for (Hadoop, Parquet, Jackson,
aircompressor ..) comes with pyspark already, in the versions that pyspark was built with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from feature_store.errors import JarsError

DELTA_VERSION = "4.4.0"
PACKAGE = f"io.delta:delta-spark_4.2_2.13:{DELTA_VERSION}"
CACHE_SETTING = "LOOPFM_CACHE"

_OWN = ("io.delta_", "io.unitycatalog_")
_NEEDED = (f"io.delta_delta-spark_4.2_2.13-{DELTA_VERSION}.jar", f"io.delta_delta-storage-{DELTA_VERSION}.jar")
_EXCLUDED = "org.apache.*:*,com.fasterxml.jackson.*:*,org.slf4j:*,io.airlift:*,org.roaringbitmap:*,com.github.luben:*"
_TIMEOUT_S = 600


def cache_root() -> Path:
    """Folder of everything kept between runs: LOOPFM_CACHE, else ~/.cache/loopfm."""
    return Path(os.environ.get(CACHE_SETTING, "~/.cache/loopfm")).expanduser().resolve()


def delta_jars() -> list[Path]:
    """Paths of Delta's jars, sorted; the first call on a machine resolves them over the network.

    Raises:
        JarsError: they are not cached and cannot be resolved.
    """
    folder = cache_root() / "jars" / f"delta-{DELTA_VERSION}"
    if not folder.is_dir():
        _fill(folder)
    return sorted(folder.glob("*.jar"))


def _fill(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".resolving-", dir=folder.parent) as scratch:
        resolved = _resolve(Path(scratch) / "ivy")
        kept = Path(scratch) / "kept"
        kept.mkdir()
        for jar in resolved:
            shutil.copy2(jar, kept / jar.name)
        try:
            kept.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same files
                raise


def _resolve(ivy: Path) -> list[Path]:
    import pyspark

    script = ivy.parent / "nothing.py"
    script.touch()
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    command = [str(submit), "--master", "local[1]", "--packages", PACKAGE, "--exclude-packages", _EXCLUDED]
    command += ["--conf", f"spark.jars.ivy={ivy}", str(script)]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment, check=False, cwd=ivy.parent
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JarsError(f"{PACKAGE} could not be resolved: {error}; {_advice()}") from error
    jars = [jar for jar in sorted((ivy / "jars").glob("*.jar")) if jar.name.startswith(_OWN)]
    missing = set(_NEEDED) - {jar.name for jar in jars}
    if done.returncode or missing:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise JarsError(f"{PACKAGE} could not be resolved (Spark's exit code {done.returncode}); {_advice()}\n{tail}")
    return jars


def _advice() -> str:
    return (
        "connect once to a Maven repository (spark.jars.ivySettings in $SPARK_CONF_DIR/spark-defaults.conf names "
        f"another than Maven Central), or set {CACHE_SETTING} to a folder that holds jars/delta-{DELTA_VERSION}"
    )


if __name__ == "__main__":
    for path in delta_jars():
        print(path)
