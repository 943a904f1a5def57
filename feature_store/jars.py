"""Delta's jars and those of S3, resolved once through Spark's own package resolution and kept in a cache.

Of Delta's package only Delta's and Unity Catalog's own jars are taken: whatever else it asks for (Hadoop, Parquet,
Jackson, aircompressor ..) comes with pyspark already, in the versions that pyspark was built with. The connector for S3
has the version of pyspark's Hadoop and is fetched only where tables lie on S3: its SDK is one jar of 690 MB, clients of
400 services, of which those that S3 and its credentials need are kept: the 20 MB can be sent to every executor.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from feature_store.errors import JarsError

DELTA_VERSION = "4.4.0"
HADOOP_VERSION = "3.5.0"
CACHE_SETTING = "LOOPFM_CACHE"

_TIMEOUT_S = 1800
_SDK = "software.amazon.awssdk_bundle"
_SERVICES = "software/amazon/awssdk/services/"
_KEPT_SERVICES = tuple(f"{_SERVICES}{name}/" for name in ("s3", "sts", "sso", "ssooidc", "kms"))
_IN_SPARK = "com.fasterxml.jackson.*:*,org.slf4j:*"


@dataclass(frozen=True)
class JarSet:
    """One package of jars.

    Args:
        folder: its name below ``jars`` in the cache.
        package: Maven coordinates.
        own: prefixes of the jars to keep of all that is resolved.
        needed: jars without which the set is of no use.
        excluded: what Spark's resolution leaves out.
    """

    folder: str
    package: str
    own: tuple[str, ...]
    needed: tuple[str, ...]
    excluded: str


DELTA = JarSet(
    folder=f"delta-{DELTA_VERSION}",
    package=f"io.delta:delta-spark_4.2_2.13:{DELTA_VERSION}",
    own=("io.delta_", "io.unitycatalog_"),
    needed=(f"io.delta_delta-spark_4.2_2.13-{DELTA_VERSION}.jar", f"io.delta_delta-storage-{DELTA_VERSION}.jar"),
    excluded=f"org.apache.*:*,{_IN_SPARK},io.airlift:*,org.roaringbitmap:*,com.github.luben:*",
)
S3 = JarSet(
    folder=f"s3-{HADOOP_VERSION}",
    package=f"org.apache.hadoop:hadoop-aws:{HADOOP_VERSION}",
    own=("org.apache.hadoop_hadoop-aws", "software.amazon.", "org.wildfly.openssl_"),
    needed=(f"org.apache.hadoop_hadoop-aws-{HADOOP_VERSION}.jar",),
    excluded=_IN_SPARK,
)


def cache_root() -> Path:
    """Folder of everything kept between runs: LOOPFM_CACHE, else ~/.cache/loopfm."""
    return Path(os.environ.get(CACHE_SETTING, "~/.cache/loopfm")).expanduser().resolve()


def delta_jars() -> list[Path]:
    """Paths of Delta's jars, sorted; the first call on a machine resolves them over the network.

    Raises:
        JarsError: they are not cached and cannot be resolved.
    """
    return _cached(DELTA)


def s3_jars() -> list[Path]:
    """Paths of the jars that let Spark read and write S3, sorted; cached like Delta's.

    Raises:
        JarsError: they are not cached and cannot be resolved.
    """
    return _cached(S3)


def _cached(wanted: JarSet) -> list[Path]:
    folder = cache_root() / "jars" / wanted.folder
    if not folder.is_dir():
        _fill(folder, wanted)
    return sorted(folder.glob("*.jar"))


def _fill(folder: Path, wanted: JarSet) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".resolving-", dir=folder.parent) as scratch:
        resolved = _resolve(Path(scratch) / "ivy", wanted)
        kept = Path(scratch) / "kept"
        kept.mkdir()
        for jar in resolved:
            if jar.name.startswith(_SDK):
                _trim(jar, kept / jar.name)
            else:
                shutil.move(jar, kept / jar.name)
        try:
            kept.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same files
                raise


def _trim(sdk: Path, target: Path) -> None:
    with zipfile.ZipFile(sdk) as whole, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as kept:
        for entry in whole.infolist():
            other = entry.filename.startswith(_SERVICES) and not entry.filename.startswith(_KEPT_SERVICES)
            if not (other or entry.is_dir()):
                kept.writestr(entry, whole.read(entry))


def _resolve(ivy: Path, wanted: JarSet) -> list[Path]:
    import pyspark

    script = ivy.parent / "nothing.py"
    script.touch()
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    command = [str(submit), "--master", "local[1]", "--packages", wanted.package]
    command += ["--exclude-packages", wanted.excluded, "--conf", f"spark.jars.ivy={ivy}", str(script)]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment, check=False, cwd=ivy.parent
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JarsError(f"{wanted.package} could not be resolved: {error}; {_advice(wanted)}") from error
    jars = [jar for jar in sorted((ivy / "jars").glob("*.jar")) if jar.name.startswith(wanted.own)]
    missing = set(wanted.needed) - {jar.name for jar in jars}
    if done.returncode or missing:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        reason = f"Spark's exit code {done.returncode}"
        raise JarsError(f"{wanted.package} could not be resolved ({reason}); {_advice(wanted)}\n{tail}")
    return jars


def _advice(wanted: JarSet) -> str:
    return (
        "connect once to a Maven repository (spark.jars.ivySettings in $SPARK_CONF_DIR/spark-defaults.conf names "
        f"another than Maven Central), or set {CACHE_SETTING} to a folder that holds jars/{wanted.folder}"
    )


if __name__ == "__main__":
    for path in delta_jars() + (s3_jars() if "--s3" in sys.argv[1:] else []):
        print(path)
