"""The servers of docker-compose.yml as processes of this machine: PostgreSQL, an S3 store, Spark master and workers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

USER, PASSWORD = "loopfm", "secret"
DATABASES = ("airflow", "mlflow")
DEPLOY = "org.apache.spark.deploy"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def process(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A process that is ended, with its children, when the block ends."""
    with log.open("w") as output:
        started = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            os.killpg(started.pid, 15)
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, 9)
                started.wait(30)


def wait_for(ready: Callable[[], bool], what: str, log: Path, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not start; its log ends:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def postgres_binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgres() -> Iterator[int]:
    """The port of a PostgreSQL with the databases of the compose file; it refuses root, so another user runs it."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder, port = Path(tempfile.mkdtemp(prefix="loopfm-postgres-")), free_port()
    try:
        password = folder / "password"
        password.write_text(PASSWORD)
        if as_user:
            for path in (folder, password):
                shutil.chown(path, "postgres")
        data = str(folder / "data")
        made = [str(binaries / "initdb"), "-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={password}", "-N"]
        subprocess.run([*as_user, *made], check=True, capture_output=True, cwd=folder)
        server = [str(binaries / "postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
        log = folder / "log"
        with process([*as_user, *server, "-c", "fsync=off"], log):
            wait_for(lambda: _make_databases(port), "PostgreSQL", log)
            yield port
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def address(port: int, database: str, scheme: str = "postgresql") -> str:
    return f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{port}/{database}"


def _make_databases(port: int) -> bool:
    import psycopg2

    try:
        connection = psycopg2.connect(address(port, "postgres"), connect_timeout=5)
    except psycopg2.OperationalError:
        return False
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name in (USER, *DATABASES):
            cursor.execute(f"CREATE DATABASE {name}")
    connection.close()
    return True


@contextmanager
def object_store(folder: Path) -> Iterator[str]:
    """The address of an S3-compatible server."""
    port, log = free_port(), folder / "object-store.log"
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with process(command, log):
        wait_for(lambda: listens(port), "the object store", log)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def spark_cluster(folder: Path, workers: int = 2, memory: str = "1g") -> Iterator[str]:
    """The address of a standalone master with its workers, from the pip package alone."""
    port, page = free_port(), free_port()
    environment = os.environ | {
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_DAEMON_MEMORY": "256m",
    }
    spark_class = str(Path(sys.executable).parent / "spark-class")
    master = [spark_class, f"{DEPLOY}.master.Master", "--host", "127.0.0.1", "--port", str(port)]
    url = f"spark://127.0.0.1:{port}"
    worker = [spark_class, f"{DEPLOY}.worker.Worker", "--cores", "1", "--memory", memory, "--webui-port", "0"]
    logs = [folder / f"spark-{number}.log" for number in range(workers + 1)]
    with process([*master, "--webui-port", str(page)], logs[0], environment):
        wait_for(lambda: answers(f"http://127.0.0.1:{page}"), "Spark's master", logs[0])
        with _all([[*worker, "--work-dir", str(folder / "work"), url]] * workers, logs[1:], environment):
            wait_for(lambda: _registered(page) == workers, "Spark's workers", logs[1])
            yield url


@contextmanager
def _all(commands: list[list[str]], logs: list[Path], environment: dict[str, str]) -> Iterator[None]:
    if not commands:
        yield
        return
    with process(commands[0], logs[0], environment), _all(commands[1:], logs[1:], environment):
        yield


def _registered(page: int) -> int:
    import json

    with urllib.request.urlopen(f"http://127.0.0.1:{page}/json/", timeout=10) as answer:
        return len([worker for worker in json.load(answer)["workers"] if worker["state"] == "ALIVE"])
