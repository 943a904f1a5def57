"""Services are started apart, recognised later, and ended with all that they started and nothing else."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipelines.errors import StepError
from pipelines.orchestration.processes import (
    Service,
    ServiceFile,
    require_alive,
    require_free_port,
    start,
    stop,
    wait_until,
)

PARENT = "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
FORKING = (
    "import subprocess, sys, time; sleep = [sys.executable, '-c', 'import time; time.sleep(60)']; "
    "print(subprocess.Popen(sleep).pid, subprocess.Popen(sleep, start_new_session=True).pid, sep='\\n', flush=True); "
    "time.sleep(60)"
)
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


def run(tmp_path: Path, code: str, name: str = "one") -> Service:
    return start(name, [sys.executable, "-c", code], os.environ, tmp_path / f"{name}.log", tmp_path)


def wait_for(condition: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_service_ends_with_its_children_and_nothing_else(tmp_path: Path) -> None:
    other = run(tmp_path, "import time; time.sleep(60)", "other")
    service = run(tmp_path, f"{PARENT}; time.sleep(60)")
    found = service.process
    assert found is not None
    wait_for(found.children)
    child = found.children()[0]
    assert stop([service]) == []
    assert service.process is None
    assert not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE
    assert other.process is not None
    stop([other])


def test_what_a_killed_service_left_behind_ends_too(tmp_path: Path) -> None:
    other = run(tmp_path, "import time; time.sleep(60)", "other")
    service = run(tmp_path, FORKING)
    wait_for(lambda: len(service.last_lines.splitlines()) == 2)
    left = [psutil.Process(int(line)) for line in service.last_lines.splitlines()]
    os.kill(service.pid, signal.SIGKILL)
    os.waitpid(service.pid, 0)
    assert [process.is_running() for process in left] == [True, True]
    assert [os.getsid(process.pid) == service.pid for process in left] == [True, False]
    assert stop([service]) == ["one"]
    assert [process.is_running() for process in left] == [False, False]
    assert other.process is not None
    stop([other])


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    service = run(tmp_path, STUBBORN)
    wait_for(lambda: "ready" in service.last_lines)
    stop([service], grace=0.5)
    assert service.process is None


def test_a_later_process_with_the_same_number_is_left_alone(tmp_path: Path) -> None:
    service = run(tmp_path, "import time; time.sleep(60)")
    stranger = replace(service, created=service.created - 100, mark="")
    assert stop([stranger]) == ["one"]
    assert service.process is not None
    stop([service])


def test_a_session_of_that_number_is_another_ones_after_a_restart_of_the_machine(tmp_path: Path) -> None:
    service = run(tmp_path, FORKING)
    wait_for(lambda: len(service.last_lines.splitlines()) == 2)
    child = psutil.Process(int(service.last_lines.splitlines()[0]))
    os.kill(service.pid, signal.SIGKILL)
    os.waitpid(service.pid, 0)
    stop([replace(service, machine_start="the one before", mark="")])
    assert child.is_running()
    stop([service])
    assert not child.is_running()


def test_a_service_is_known_after_the_clock_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a pause of a virtual machine: the start of the machine, in the clock's time, is then another one."""
    service = run(tmp_path, "import time; time.sleep(60)")
    before = psutil.boot_time()
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: before + 240)
    assert abs(psutil.Process(service.pid).create_time() - time.time()) > 200
    assert service.process is not None
    assert stop([replace(service, mark="")]) == []
    assert service.process is None


def test_the_file_holds_what_was_started(tmp_path: Path) -> None:
    file = ServiceFile(tmp_path / "services.json")
    assert file.read() == []
    services = [Service("one", 1, 2.5, "log"), Service("two", 3, 4.0, "log", "start", "mark")]
    file.write(services)
    assert file.read() == services
    file.write([])
    assert not file.path.exists()


def test_an_ended_service_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    service = run(tmp_path, "print('the reason'); raise SystemExit(3)")
    wait_for(lambda: service.process is None)
    with pytest.raises(StepError, match=r"one \(process \d+\) has ended; .*one.log ends:\nthe reason"):
        require_alive([service])
    with pytest.raises(StepError, match="has ended"):
        wait_until([("page", lambda: False)], [service], 10)


def test_waiting_ends_with_the_name_of_what_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="page: not ready after 0 s"):
        wait_until([("page", lambda: False), ("other", lambda: True)], [], 0)


def test_a_taken_port_is_named_with_the_setting_to_change() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StepError, match=rf"port {port} is taken by process {os.getpid()} .*SETTING={port + 1}"):
            require_free_port(port, "SETTING")
    require_free_port(port, "SETTING")
