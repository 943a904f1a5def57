"""FuxiCTR's environment: its own interpreter and pinned packages, made once below .cache."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import BenchmarkError, MissingDataError
from benchmarks.projects import CACHE

PINNED = Path(__file__).parent / "fuxictr.txt"
PROGRAM = Path(__file__).parent / "fuxictr_deepfm.py"
LICENCE = "Apache-2.0"
LIMIT_SECONDS = 900


def peer_python() -> Path:
    """Interpreter of the peer's environment; the first call installs it (a few minutes).

    Raises:
        MissingDataError: the packages cannot be installed, as without a package index.
    """
    folder = CACHE / "peers" / "fuxictr"
    python, stamp = folder / "bin" / "python", folder / "pinned.txt"
    if stamp.is_file() and stamp.read_text() == PINNED.read_text():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    # uv shares its cache with the project's own environment; pip alone would load torch once more.
    installer = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*installer, "uv"])
    _run([str(folder / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(python), "-r", str(PINNED)])
    stamp.write_text(PINNED.read_text())
    return python


def run_peer(python: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Run the peer's program on one task and return its result (both described there).

    Raises:
        BenchmarkError: it failed or did not end.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "task.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(task))
        try:
            done = subprocess.run(
                [python, PROGRAM, asked, answer], capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"FuxiCTR did not end within {LIMIT_SECONDS} s") from error
        if done.returncode or not answer.exists():
            raise BenchmarkError(f"FuxiCTR failed: {(done.stderr or done.stdout)[-2000:]}")
        result: dict[str, Any] = json.loads(answer.read_text())
        return result


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingDataError(f"FuxiCTR's environment cannot be made: {' '.join(command)}: {done.stderr[-1000:]}")
