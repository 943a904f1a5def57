import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest

from models.fm_train import train_fm
from pipelines.infer_spark import fm_outputs_frame
from tests.models.fm_world import CONFIG, HEADS, SPECS, window
from tests.pipelines.test_infer_spark import DATASET, in_order, space_of

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = "org.apache.spark.deploy"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def master(tmp_path):
    """A standalone master with one worker of two cores, from the pip package alone."""
    home = Path(pyspark.__file__).parent
    environment = os.environ | {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
    }
    url = f"spark://127.0.0.1:{free_port()}"
    host, port = url.removeprefix("spark://").split(":")
    commands = [
        [f"{DEPLOY}.master.Master", "--host", host, "--port", port, "--webui-port", "0"],
        [
            f"{DEPLOY}.worker.Worker",
            "--cores",
            "2",
            "--memory",
            "1g",
            "--webui-port",
            "0",
            "--work-dir",
            str(tmp_path),
            url,
        ],
    ]
    started = []
    try:
        for number, command in enumerate(commands):
            log = (tmp_path / f"daemon{number}.log").open("w")
            started.append(
                subprocess.Popen([str(home / "bin" / "spark-class"), *command], env=environment, stdout=log, stderr=log)
            )
        yield url
    finally:
        for daemon in reversed(started):
            daemon.terminate()
            daemon.wait(30)


@pytest.mark.slow
def test_a_cluster_gets_code_and_model_and_gives_the_bytes_of_one_machine(spark, master, tmp_path):
    model = train_fm(CONFIG, SPECS, HEADS, window(seed=1), window(seed=2, start=10_000), tmp_path / "fm")
    inputs = str(tmp_path / "inputs.parquet")
    pq.write_table(window(rows=5000).inputs, inputs)
    local = in_order(
        fm_outputs_frame(spark, DATASET, spark.read.parquet(inputs), space_of(model.path, model.digest), model.path)
    )
    copy = shutil.copyfile(model.path, tmp_path / "sent.pt")
    job = [
        sys.executable,
        "-m",
        "tests.pipelines.cluster_job",
        master,
        inputs,
        str(copy),
        model.digest,
        str(tmp_path / "out"),
    ]
    done = subprocess.run(job, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not copy.exists()
    assert pa.table(pq.read_table(tmp_path / "out").sort_by("example_id")).equals(local)
