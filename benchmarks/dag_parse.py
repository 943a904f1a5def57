"""How long the Dags of each YAML file take to parse, in a process like the Dag processor's, and what that imports.

Figures: ``slowest_file_seconds``, the longest of all files in a process that has loaded the bundle before, as the Dag
processor has, which forks for each file; ``cold_file_seconds``, the same with a fresh interpreter that has loaded
Airflow only; ``slowest_file_cpu_seconds``, processor time of the first, which a busy machine does not change much;
``heavy_imports``, how many of torch, pyspark, mlflow and pandas came in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.harness import BenchmarkError, Report, at_most, benchmark
from feature_store.config import Strict

REPOSITORY = Path(__file__).resolve().parent.parent
PROBE = """
import json, sys, time
import airflow.sdk, airflow.dag_processing.dagbag
import airflow.providers.standard.sensors.python
if sys.argv[2] == "warm":
    import dags.bundle
start, cpu = time.perf_counter(), time.process_time()
from dags.factory import project_dags
found = project_dags(sys.argv[1])
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
heavy = sorted({"torch", "pyspark", "mlflow", "pandas"} & set(sys.modules))
print(json.dumps({"seconds": seconds, "cpu": cpu, "dags": len(found), "heavy": heavy}))
"""


class DagParse(Strict):
    """``folder``: projects to parse, relative to the repository. ``repeats``: the fastest of so many counts."""

    folder: str = "conf"
    repeats: int = Field(default=3, ge=1)
    limit_seconds: float = 1.0


SETTINGS = DagParse


def body(settings: DagParse, report: Report) -> None:
    """Parse every YAML file of the folder."""
    files = sorted((REPOSITORY / settings.folder).glob("*.yaml"))
    if not files:
        raise BenchmarkError(f"{settings.folder}: no YAML file")
    heavy: set[str] = set()
    slowest, cpu = {"warm": 0.0, "cold": 0.0}, 0.0
    for file in files:
        for kind in slowest:
            found = [_probe(file, kind) for _ in range(settings.repeats)]
            seconds = min(float(result["seconds"]) for result in found)
            heavy |= set(found[0]["heavy"])
            report.say(f"{file.name} {kind}: {seconds:.3f} s, {found[0]['dags']} Dags")
            slowest[kind] = max(slowest[kind], seconds)
            if kind == "warm":
                cpu = max(cpu, min(float(result["cpu"]) for result in found))
    report.add("slowest_file_seconds", slowest["warm"], at_most(settings.limit_seconds))
    report.add("slowest_file_cpu_seconds", cpu)
    report.add("cold_file_seconds", slowest["cold"])
    report.add("heavy_imports", len(heavy), at_most(0))


def _probe(file: Path, kind: str) -> dict[str, Any]:
    command = [sys.executable, "-c", PROBE, str(file), kind]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "AIRFLOW_HOME": folder}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"{file.name}: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    sys.exit(benchmark("dag_parse", SETTINGS, body))
