"""The demo through Airflow, on a smaller world: what it prints, and that nothing of it is left. Minutes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import yaml

from tests.dags.live_site import free_ports
from tests.pipelines import loop_world

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from pipelines.orchestration.airflow_env import Site
from pipelines.orchestration.demo import demo
home, one, two = sys.argv[1:]
demo(Site(Path(home), int(one), int(two)), Path(home, "conf", "small.yaml"))
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_ends_with_the_arms_and_leaves_nothing_running(tmp_path: Path) -> None:
    raw = loop_world.daily_settings(name="small")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "small.yaml").write_text(yaml.safe_dump(raw))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MLFLOW_TRACKING"))}
    own = {"LOOPFM_CONF": str(tmp_path / "conf"), "LOOPFM_HOME": str(tmp_path), "LOOPFM_SPARK_MEMORY": "1g"}
    log = tmp_path / "demo.log"
    with log.open("w") as output:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), *map(str, free_ports())]
        done = subprocess.run(command, cwd=ROOT, env=kept | own, stdout=output, stderr=subprocess.STDOUT)
    text = log.read_text()
    assert done.returncode == 0, text[-3000:]
    for line in ("small_backfill write[0]: success", "small_fm", "small_data", "+ LoopFM + KD", "FM itself", "demo: "):
        assert line in text
    with closing(sqlite3.connect(tmp_path / "airflow" / "airflow.db")) as database:
        on = database.execute("select dag_id from dag where not is_paused").fetchall()
    assert on == [], "its world has ended"
    assert not [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
