"""The wiring of docker-compose.yml without a container engine: the same environment, the same kinds of servers.

PostgreSQL from the system's packages, Spark's master and two workers from the pip package, an S3-compatible store,
MLflow's server and Airflow's four services as processes of this machine; only the addresses differ from the file's.
"""

import base64
import os
import secrets
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import yaml

from pipelines.orchestration.airflow_api import AirflowApi
from pipelines.orchestration.airflow_env import USER
from pipelines.orchestration.demo import run_dags
from pipelines.orchestration.services import is_healthy
from tests.pipelines import loop_world
from tests.servers import compose
from tests.servers.services import address, answers, free_port, object_store, postgres, process, spark_cluster, wait_for

SPARK_CONF = """\
spark.sql.shuffle.partitions 2
spark.executor.memory 600m
spark.executorEnv.OMP_NUM_THREADS 1
"""


@dataclass
class Servers:
    """Servers of this machine, all but Airflow's running.

    ``environment``: that of the scheduler's service; ``services``: service -> the file's command; ``options``: what is
    another here in a command.
    """

    folder: Path
    environment: dict[str, str]
    services: dict[str, list[str]]
    places: dict[str, str]
    options: dict[str, str]
    database_port: int

    @contextmanager
    def service(self, name, *options):
        """A service of the file by its own command, on loopback."""
        program, *parts = (self.options.get(part, led(part, self.places)) for part in self.services[name])
        log = self.folder / f"{name}.log"
        command = [str(Path(sys.executable).parent / program), *parts, *options]
        with process(command, log, self.environment):
            yield log

    @property
    def conf(self):
        return Path(self.environment["LOOPFM_CONF"])


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    values = {name: secrets.token_hex(8) for name, (kind, _) in compose.variables().items() if kind == "?"}
    values |= {"LOOPFM_DATA": str(folder / "data"), "POSTGRES_PASSWORD": "secret"}
    values["AIRFLOW_FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    found = compose.environment("init", values) | compose.environment("airflow-scheduler", values)
    services = {name: service.get("command", []) for name, service in compose.compose(values)["services"].items()}
    with ExitStack() as stack:
        port, store = stack.enter_context(postgres()), stack.enter_context(object_store(folder))
        master, mlflow, airflow = stack.enter_context(spark_cluster(folder)), free_port(), free_port()
        places = {
            "postgres:5432": f"127.0.0.1:{port}",
            "http://object-store:8333": store,
            "spark://spark-master:7077": master,
            "mlflow:5000": f"127.0.0.1:{mlflow}",
            "airflow-api-server:8080": f"127.0.0.1:{airflow}",
            "localhost:8080": f"127.0.0.1:{airflow}",
            "/opt/airflow": str(folder / "airflow"),
            "/opt/loopfm/servers/spark": str(folder / "spark"),
            "/opt/loopfm/conf": str(folder / "conf"),
            "/opt/loopfm": str(compose.ROOT),
        }
        options = {
            "0.0.0.0": "127.0.0.1",
            "--host=0.0.0.0": "--host=127.0.0.1",
            "8080": str(airflow),
            "--port=5000": f"--port={mlflow}",
        }
        environment = os.environ | {name: led(value, places) for name, value in found.items()} | of_this_machine(folder)
        run(environment, "-m", "pipelines.servers")
        made = Servers(folder, environment, services, places, options, port)
        log = stack.enter_context(made.service("mlflow", "--workers=1"))
        wait_for(lambda: answers(f"http://127.0.0.1:{mlflow}/health"), "MLflow", log)
        yield made


def led(text, places):
    for place, here in places.items():
        text = text.replace(place, here)
    return text


def of_this_machine(folder):
    """What the image sets, and the sizes of a small machine."""
    (folder / "spark").mkdir()
    (folder / "spark" / "spark-defaults.conf").write_text(SPARK_CONF)
    return {
        "LOOPFM_SCRATCH": str(folder / "scratch"),
        "LOOPFM_COMMIT": "built",
        "LOOPFM_SPARK_MEMORY": "800m",
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYTHONPATH": str(compose.ROOT),
        "OMP_NUM_THREADS": "1",
    }


def run(environment, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=compose.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@contextmanager
def airflow(servers):
    """A client of the file's Airflow, healthy."""
    url = servers.environment["LOOPFM_AIRFLOW_URL"]
    api = AirflowApi(url, USER, servers.environment["LOOPFM_AIRFLOW_PASSWORD"])
    with ExitStack() as stack:
        log = stack.enter_context(servers.service("airflow-api-server", "--workers=1"))
        for name in ("airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"):
            stack.enter_context(servers.service(name))
        wait_for(lambda: is_healthy(api), "Airflow", log)
        yield api


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_loop_runs_through_airflow_on_servers(servers, monkeypatch):
    servers.conf.mkdir()
    conf = servers.conf / "demo.yaml"
    conf.write_text(yaml.safe_dump(loop_world.daily_settings()))
    with airflow(servers) as api:
        run_dags(api, conf)
        assert states(api) == {"success"}
    environment = servers.environment
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
        "AWS_ALLOW_HTTP",
        "LOOPFM_COMMIT_LOCK",
    ):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment["MLFLOW_TRACKING_URI"])
    context = loop_world.context(Path("unused"))
    context.root = environment["LOOPFM_HOME"]
    tables_are_whole(context)
    models_are_registered(context)
    locks_were_taken(servers.database_port)
    assert "fm_outputs" in run(environment, "-m", "pipelines.cli", "status", str(conf))


def states(api):
    """States of all runs; each of the project's kinds of Dag has some."""
    runs = {dag_id: api.runs(dag_id) for dag_id in api.dags()}
    ran = {dag_id for dag_id, found in runs.items() if found}
    assert ran == {"demo_backfill", "demo_fm", "demo_data", "demo_vm_feed", "demo_vm_shop"}
    return {run["state"] for found in runs.values() for run in found}


def tables_are_whole(context):
    windows = loop_world.windows(context)
    for table in ("examples", "labels", "fm_inputs"):
        scope = context.store.ledger.scopes(table)[0]
        coverage = context.store.ledger.coverage(table, scope)
        assert [part for part, entry in coverage.items() if entry.done] == [*windows.parts, loop_world.NEXT]
        assert {entry.commit for entry in coverage.values()} == {"built"}
    space = context.space()
    outputs = context.store.ledger.coverage("fm_outputs", {"space_id": space.space_id})
    assert [part for part, entry in outputs.items() if entry.done] == [
        *windows.outputs,
        loop_world.KNOWN,
        loop_world.NEXT,
    ]


def models_are_registered(context):
    for vertical in context.dataset.heads:
        assert context.registry.versions(context.vm_name(vertical))
    store, path = pafs.FileSystem.from_uri("s3://loopfm/home/artifacts/demo")
    files = store.get_file_info(pafs.FileSelector(path, recursive=True))
    assert any(file.path.endswith("model.pt") for file in files)


def locks_were_taken(port):
    """PostgreSQL kept count: advisory locks of this database, and none is left."""
    import psycopg2

    connection = psycopg2.connect(address(port, "loopfm"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert cursor.fetchone() == (0,)
        cursor.execute("SELECT sum(sessions) FROM pg_stat_database WHERE datname = 'loopfm'")
        assert cursor.fetchone()[0] > 20
    connection.close()
