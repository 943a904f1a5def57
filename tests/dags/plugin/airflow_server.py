"""An Airflow API server of its own on loopback, with the plugin and a login: SQLite, the simple auth manager."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

REPOSITORY = Path(__file__).parents[3]
USER, PASSWORD = "admin", "for-this-test-only"


@contextmanager
def airflow_server(
    folder: Path, conf: Path, root: Path, patience: float = 900, run: tuple[str, str, str] | None = None
) -> Iterator[str]:
    """Address of a running server over the projects of ``conf``; ended with the block.

    Args:
        run: Dag, run id and partition of a run that is there from the start.
    """
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    environment = _environment(folder, conf, root, address)
    airflow = [sys.executable, "-m", "airflow"]
    with (folder / "log").open("w") as log:
        common = {"env": environment, "cwd": REPOSITORY, "stdout": log, "stderr": subprocess.STDOUT}
        subprocess.run([*airflow, "db", "migrate"], check=True, **common)
        if run is not None:
            subprocess.run([*airflow, "dags", "reserialize"], check=True, **common)
            subprocess.run([sys.executable, "-m", "tests.dags.plugin.dag_run", *run], check=True, **common)
        command = [*airflow, "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        server = subprocess.Popen(command, **common)
        try:
            _wait(f"{address}/api/v2/version", server, time.monotonic() + patience)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _environment(folder: Path, conf: Path, root: Path, address: str) -> dict[str, str]:
    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps({USER: PASSWORD}))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MLFLOW"))}
    bundle = {"name": "loopfm", "classpath": "dags.bundle.ProjectsBundle", "kwargs": {}}
    return kept | {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "dags/plugin"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:viewer",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__SECRET_KEY": "a-secret-of-this-test",
        "AIRFLOW__API_AUTH__JWT_SECRET": "another-secret-of-this-test-of-64-characters-0123456789-01234567",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "LOOPFM_CONF": str(conf),
        "LOOPFM_HOME": str(root),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(url: str, server: subprocess.Popen[bytes], until: float) -> None:
    while time.monotonic() < until:
        if server.poll() is not None:
            raise RuntimeError(f"the API server ended with status {server.returncode}")
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    raise TimeoutError(f"{url}: no answer")
