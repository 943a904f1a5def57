"""Where a local Airflow lives and what it is told: folders, ports, secrets, and the environment of its processes."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import DATA_ROOT_SETTING, HOME_SETTING, TRACKING_SETTING, data_root, home
from pipelines.errors import ConfigError

AIRFLOW_PORT_SETTING = "LOOPFM_AIRFLOW_PORT"
MLFLOW_PORT_SETTING = "LOOPFM_MLFLOW_PORT"
CONF_SETTING = "LOOPFM_CONF"
AIRFLOW_PORT, MLFLOW_PORT = 8080, 5000
HOST = "127.0.0.1"
USER = "admin"
REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = "loopfm"
SECRET_NAMES = ("password", "jwt", "session", "fernet")
SPARK_POOL, TRAINER_POOL = "spark", "trainer"
POOLS = {
    SPARK_POOL: "Spark drivers at once: daily runs and backfills share them",
    TRAINER_POOL: "one training, or comparison of arms, at a time; a comparison that starts Spark holds its slot",
}


def conf_folder() -> Path:
    """Folder of the projects that get Dags: LOOPFM_CONF, else conf/ of the checkout."""
    return Path(os.environ.get(CONF_SETTING) or REPOSITORY / "conf").resolve()


@dataclass(frozen=True)
class Site:
    """One local installation: everything lies below ``home``, nothing is reachable from another machine."""

    home: Path
    airflow_port: int = AIRFLOW_PORT
    mlflow_port: int = MLFLOW_PORT

    @classmethod
    def from_environment(cls) -> Site:
        """The site that the environment's settings name.

        Raises:
            ConfigError: LOOPFM_HOME is a URI, or a port is no number.
        """
        if "://" in home():
            raise ConfigError(
                f"{HOME_SETTING}: got {home()}; a local Airflow needs a folder; servers: docker-compose.yml"
            )
        return cls(
            Path(home()).resolve(), _port(AIRFLOW_PORT_SETTING, AIRFLOW_PORT), _port(MLFLOW_PORT_SETTING, MLFLOW_PORT)
        )

    @property
    def folder(self) -> Path:
        """AIRFLOW_HOME."""
        return self.home / "airflow"

    @property
    def database(self) -> Path:
        """Airflow's own SQLite file."""
        return self.folder / "airflow.db"

    @property
    def airflow_url(self) -> str:
        """Address of UI and API."""
        return f"http://{HOST}:{self.airflow_port}"

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow's UI."""
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def tracking_uri(self) -> str:
        """MLflow's store: MLFLOW_TRACKING_URI where set, else a file below home."""
        return os.environ.get(TRACKING_SETTING) or f"sqlite:///{self.home}/mlflow.db"

    def environment(self) -> dict[str, str]:
        """Environment of every process of this Airflow; a setting made outside wins over these defaults."""
        own = self._secrets()
        bundle = {"name": BUNDLE, "classpath": "dags.bundle.ProjectsBundle", "kwargs": {"refresh_interval": 10}}
        defaults = {
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.airflow_url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.folder / "passwords.json"),
            "AIRFLOW__CORE__FERNET_KEY": own["fernet"],
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "dags" / "plugin"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.database}",
            "AIRFLOW__API__BASE_URL": self.airflow_url,
            "AIRFLOW__API__SECRET_KEY": own["session"],
            "AIRFLOW__API_AUTH__JWT_SECRET": own["jwt"],
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.folder / "logs"),
            "AIRFLOW__SCHEDULER__ENABLE_TRACEMALLOC": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            CONF_SETTING: str(conf_folder()),
            DATA_ROOT_SETTING: str(data_root().resolve()),
        }
        fixed = {
            "AIRFLOW_HOME": str(self.folder),
            HOME_SETTING: str(self.home),
            AIRFLOW_PORT_SETTING: str(self.airflow_port),
            MLFLOW_PORT_SETTING: str(self.mlflow_port),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
        }
        return defaults | dict(os.environ) | fixed

    @property
    def password(self) -> str:
        """Password of the one user."""
        return self._secrets()["password"]

    def _secrets(self) -> dict[str, str]:
        """Random secrets of this site, made once, readable by their owner only."""
        path = self.folder / "secrets.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            made = {name: secrets.token_urlsafe(12 if name == "password" else 32) for name in SECRET_NAMES}
            made["fernet"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            _write_private(path, json.dumps(made))
            _write_private(self.folder / "passwords.json", json.dumps({USER: made["password"]}))
        found: dict[str, str] = json.loads(path.read_text())
        return found


def _write_private(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)


def _port(setting: str, default: int) -> int:
    text = os.environ.get(setting, str(default))
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise ConfigError(f"{setting}: got {text!r}; allowed: a port number such as {default}")
    return int(text)
