"""Background processes by name: started detached, remembered in a file, and ended exactly as they were started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from pipelines.errors import StepError
from pipelines.orchestration.airflow_env import HOST

LOG_LINES = 15


def tail(log: Path) -> str:
    """The last lines of a log; empty where there is none."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-LOG_LINES:])


@dataclass(frozen=True)
class Service:
    """A started process. ``created`` (s since 1970) tells it from a later process with the same pid."""

    name: str
    pid: int
    created: float
    log: str

    @property
    def process(self) -> psutil.Process | None:
        """The running process; None once it ended."""
        try:
            found = psutil.Process(self.pid)
            if abs(found.create_time() - self.created) < 0.01 and found.status() != psutil.STATUS_ZOMBIE:
                return found
        except psutil.NoSuchProcess:
            pass
        return None

    @property
    def last_lines(self) -> str:
        """End of its log."""
        return tail(Path(self.log))


class ServiceFile:
    """Services of one folder, in a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Service]:
        """Services that were started and not yet ended."""
        if not self.path.exists():
            return []
        return [Service(**row) for row in json.loads(self.path.read_text())]

    def write(self, services: Iterable[Service]) -> None:
        """Replace the list; none: the file goes."""
        rows = [asdict(service) for service in services]
        if not rows:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(rows, indent=1))
        temporary.replace(self.path)


def start(name: str, command: list[str], environment: Mapping[str, str], log: Path, folder: Path) -> Service:
    """Start ``command`` in a session of its own; its output goes to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Service(name, process.pid, psutil.Process(process.pid).create_time(), str(log))


def stop(services: Iterable[Service], grace: float = 20.0) -> list[str]:
    """End services with everything that they started; politely first.

    Returns:
        Names of those that had ended before.
    """
    ended, alive = [], []
    for service in services:
        process = service.process
        if process is None:
            ended.append(service.name)
        else:
            alive += [*process.children(recursive=True), process]
    _signal(alive, signal.SIGTERM)
    _, left = psutil.wait_procs(alive, timeout=grace)
    left = [child for process in left for child in _family(process)]
    _signal(left, signal.SIGKILL)
    psutil.wait_procs(left, timeout=5)
    _reap(services)
    return ended


def require_free_port(port: int, setting: str) -> None:
    """Check that nothing listens on a port of this machine.

    Raises:
        StepError: something does; names it where that is allowed, and the setting to change.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StepError(
                f"port {port} is taken{_listener(port)}; end what uses it, or choose another: {setting}={port + 1}"
            ) from error


def require_alive(services: Iterable[Service]) -> None:
    """Check that every service still runs.

    Raises:
        StepError: one ended; the message names its log and holds the log's end.
    """
    for service in services:
        if service.process is None:
            raise StepError(
                f"{service.name} (process {service.pid}) has ended; {service.log} ends:\n{service.last_lines}"
            )


def wait_until(ready: Iterable[tuple[str, object]], services: list[Service], seconds: float) -> None:
    """Wait for every (name, callable) to return true.

    Raises:
        StepError: a service ended meanwhile, or the time is over.
    """
    waiting = dict(ready)
    end = time.monotonic() + seconds
    while waiting:
        require_alive(services)
        waiting = {name: check for name, check in waiting.items() if not check()}  # type: ignore[operator]
        if waiting and time.monotonic() > end:
            logs = ", ".join(service.log for service in services)
            raise StepError(f"{', '.join(waiting)}: not ready after {seconds:.0f} s; see {logs}")
        time.sleep(0.5 if waiting else 0)


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def _reap(services: Iterable[Service]) -> None:
    """Collect the exit status of own children, so that none is left as a zombie."""
    for service in services:
        try:
            os.waitpid(service.pid, os.WNOHANG)
        except ChildProcessError:
            continue


def _listener(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""
