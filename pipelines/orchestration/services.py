"""``make up`` and ``make down``: Airflow's four processes and MLflow's page, on this machine only."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from pipelines.errors import StepError
from pipelines.orchestration.airflow_api import AirflowApi
from pipelines.orchestration.airflow_env import (
    AIRFLOW_PORT_SETTING,
    HOST,
    MLFLOW_PORT_SETTING,
    POOLS,
    REPOSITORY,
    USER,
    Site,
)
from pipelines.orchestration.processes import (
    Service,
    ServiceFile,
    require_alive,
    require_free_port,
    start,
    stop,
    tail,
    wait_until,
)

COMPONENTS = {"metadatabase", "scheduler", "triggerer", "dag_processor"}
START_SECONDS = 600.0


def commands(site: Site) -> dict[str, list[str]]:
    """Service -> command. Logs lie on this disk, so nothing serves them over the network."""
    airflow = [sys.executable, "-m", "airflow"]
    mlflow = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(site.mlflow_port),
        "--workers",
        "1",
    ]
    return {
        "api-server": [*airflow, "api-server", "--host", HOST, "--port", str(site.airflow_port), "--workers", "1"],
        "scheduler": [*airflow, "scheduler", "--skip-serve-logs"],
        "dag-processor": [*airflow, "dag-processor"],
        "triggerer": [*airflow, "triggerer", "--skip-serve-logs"],
        "mlflow": [*mlflow, "--backend-store-uri", site.tracking_uri],
    }


def up(site: Site, upgrade: bool = False) -> AirflowApi:
    """Start everything and wait until it is healthy; what runs already is left as it is.

    Args:
        site: where and on which ports.
        upgrade: bring an older metadata database up to this Airflow.

    Raises:
        StepError: a port is taken, a process ended, or the metadata database is another Airflow's.
    """
    state = service_file(site)
    api = AirflowApi(site.airflow_url, USER, site.password)
    if running := state.read():
        try:
            require_alive(running)
        except StepError as error:
            left = ", ".join(service.name for service in running if service.process) or "nothing"
            raise StepError(f"{error}\nStill running of the others: {left}. `make down`, then `make up`") from error
        _say(site, "already running")
        return api
    require_free_port(site.airflow_port, AIRFLOW_PORT_SETTING)
    require_free_port(site.mlflow_port, MLFLOW_PORT_SETTING)
    environment = site.environment()
    _prepare_database(site, environment, upgrade)
    started = time.monotonic()
    services: list[Service] = []
    try:
        for name, command in commands(site).items():
            log = site.folder / "logs" / "services" / f"{name}.log"
            services.append(start(name, command, environment, log, REPOSITORY))
            state.write(services)
        wait_until([("Airflow", lambda: is_healthy(api)), ("MLflow", lambda: _answers(site))], services, START_SECONDS)
        _make_pools(api)
    except BaseException:
        stop(services)
        state.write([])
        raise
    _say(site, f"up after {time.monotonic() - started:.0f} s")
    return api


def down(site: Site) -> None:
    """End what ``up`` started, with all that it started in turn."""
    state = service_file(site)
    services = state.read()
    if not services:
        print(f"nothing runs below {site.home}")
        return
    ended = stop(services)
    state.write([])
    names = ", ".join(service.name for service in services if service.name not in ended)
    print(f"ended: {names or 'nothing'}" + (f"; had ended before: {', '.join(ended)}" if ended else ""))


def is_healthy(api: AirflowApi) -> bool:
    """Whether every component of an Airflow says that it is well."""
    return {name for name, status in api.health().items() if status == "healthy"} >= COMPONENTS


def service_file(site: Site) -> ServiceFile:
    """Where the started services are remembered."""
    return ServiceFile(site.folder / "services.json")


def _prepare_database(site: Site, environment: dict[str, str], upgrade: bool) -> None:
    """Make the metadata database, or check that it is this Airflow's. A database elsewhere is migrated as it is."""
    stamp, wanted = site.folder / "database-version", version("apache-airflow")
    own = environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{site.database}"
    found = stamp.read_text() if stamp.exists() else "unknown"
    if own and _has_tables(site.database):
        if found == wanted:
            return
        if not upgrade:
            raise StepError(
                f"{site.database} was made by Airflow {found}, this is Airflow {wanted}: `make up UPGRADE=1` upgrades "
                "it (a copy is kept beside it), or remove the file to start with an empty one"
            )
        _keep_copy(site.database, site.database.with_name(f"airflow-{found}.db"))
    log = site.folder / "logs" / "services" / "migrate.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY)
    if done.returncode:
        raise StepError(f"the metadata database cannot be made or upgraded; {log} ends:\n{tail(log)}")
    if own:
        stamp.write_text(wanted)


def _keep_copy(database: Path, copy: Path) -> None:
    """A whole copy: what its log still holds included, which a copy of the file alone would miss."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _has_tables(database: Path) -> bool:
    if not database.exists():
        return False
    with sqlite3.connect(database) as connection:
        return bool(connection.execute("select count(*) from sqlite_master where type = 'table'").fetchone()[0])


def _make_pools(api: AirflowApi) -> None:
    for name, description in POOLS.items():
        known = {pool["name"] for pool in api.call("GET", "/pools?limit=1000")["pools"]}
        if name not in known:
            api.call(
                "POST", "/pools", {"name": name, "slots": 1, "description": description, "include_deferred": False}
            )


def _answers(site: Site) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(f"{site.mlflow_url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _say(site: Site, state: str) -> None:
    print(f"Airflow {state}: {site.airflow_url}   login {USER}, password {site.password}")
    print(f"MLflow: {site.mlflow_url}   files and logs: {os.path.relpath(site.home)}   end: make down", flush=True)
