"""Peak memory of process trees."""

import os
import sys

from benchmarks.memory import PeakMemory, measured_command, tree_pss

BYTES = 150 * 2**20
HOLD = f"import time; held = bytearray({BYTES}); held[::4096] = b'x' * len(held[::4096]); time.sleep(2)"


def test_a_child_of_the_command_counts(tmp_path):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}], check=True)"
    done = measured_command([sys.executable, "-c", child], dict(os.environ), tmp_path / "log")
    assert done.returncode == 0
    assert done.seconds >= 2
    assert BYTES < done.peak_bytes < BYTES + 200 * 2**20


def test_output_and_status_are_kept(tmp_path):
    command = [sys.executable, "-c", "import sys; print('told'); sys.exit(3)"]
    done = measured_command(command, dict(os.environ), tmp_path / "log")
    assert done.returncode == 3
    assert (tmp_path / "log").read_text() == "told\n"


def test_this_process_is_measured_and_a_gone_one_is_nothing():
    with PeakMemory(interval=0.01) as memory:
        pass
    assert memory.peak_bytes > 2**20
    assert tree_pss(2**22 + 1) == 0
