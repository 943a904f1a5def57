"""The wiring of docker-compose.yml without a container engine: the same environment, the same kinds of servers.

PostgreSQL from the system's packages, Spark's master and two workers from the pip package, an S3-compatible store and
MLflow's server as processes of this machine; only the addresses differ from the file's.
"""

import base64
import os
import secrets
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import yaml

from tests.pipelines import loop_world
from tests.servers import compose
from tests.servers.services import address, answers, free_port, object_store, postgres, process, spark_cluster, wait_for

ARMS = ["base", "loopfm_kd"]
SPARK_CONF = """\
spark.sql.shuffle.partitions 2
spark.executor.memory 600m
spark.executorEnv.OMP_NUM_THREADS 1
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Environment of the scheduler's service, led to servers of this machine."""
    folder = tmp_path_factory.mktemp("servers")
    values = {name: secrets.token_hex(8) for name, (kind, _) in compose.variables().items() if kind == "?"}
    values |= {"LOOPFM_DATA": str(folder / "data"), "POSTGRES_PASSWORD": "secret"}
    values["AIRFLOW_FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    found = compose.environment("init", values) | compose.environment("airflow-scheduler", values)
    with ExitStack() as stack:
        port, store = stack.enter_context(postgres()), stack.enter_context(object_store(folder))
        master, mlflow = stack.enter_context(spark_cluster(folder)), free_port()
        places = {
            "postgres:5432": f"127.0.0.1:{port}",
            "http://object-store:8333": store,
            "spark://spark-master:7077": master,
            "mlflow:5000": f"127.0.0.1:{mlflow}",
            "/opt/airflow": str(folder / "airflow"),
            "/opt/loopfm/servers/spark": str(folder / "spark"),
            "/opt/loopfm": str(compose.ROOT),
        }
        environment = os.environ | {name: led(value, places) for name, value in found.items()} | of_this_machine(folder)
        run(environment, "-m", "pipelines.servers")
        command = compose.compose(values)["services"]["mlflow"]["command"]
        server = [led(part, places) for part in command if not part.startswith("--port")] + [f"--port={mlflow}"]
        server[0] = str(Path(sys.executable).parent / server[0])
        local = ["--host=127.0.0.1" if part == "--host=0.0.0.0" else part for part in server]
        log = folder / "mlflow.log"
        stack.enter_context(process([*local, "--workers=1"], log, environment))
        wait_for(lambda: answers(f"http://127.0.0.1:{mlflow}/health"), "MLflow", log)
        yield environment, port


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


@pytest.mark.slow
def test_the_loop_runs_on_servers(servers, tmp_path, monkeypatch):
    environment, port = servers
    conf = tmp_path / "demo.yaml"
    conf.write_text(yaml.safe_dump(loop_world.raw_settings()))
    run(environment, "-m", "pipelines.cli", "run", str(conf), "--arms", *ARMS)
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
    locks_were_taken(port)
    assert "fm_outputs" in run(environment, "-m", "pipelines.cli", "status", str(conf))


def tables_are_whole(context):
    windows = loop_world.windows(context)
    for table in ("examples", "labels", "fm_inputs"):
        scope = context.store.ledger.scopes(table)[0]
        coverage = context.store.ledger.coverage(table, scope)
        assert [part for part, entry in coverage.items() if entry.done] == windows.parts
        assert {entry.commit for entry in coverage.values()} == {"built"}
    space = context.space()
    outputs = context.store.ledger.coverage("fm_outputs", {"space_id": space.space_id})
    assert [part for part, entry in outputs.items() if entry.done] == windows.outputs


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
