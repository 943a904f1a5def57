"""Background processes by name: started detached, remembered in a file, and ended exactly as they were started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from pipelines.errors import StepError
from pipelines.orchestration.airflow_env import HOST

LOG_LINES = 15
MARK_SETTING = "LOOPFM_SERVICE"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def tail(log: Path) -> str:
    """The last lines of a log; empty where there is none."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-LOG_LINES:])


@dataclass(frozen=True)
class Service:
    """A started process. ``created`` (s since the machine's start, which no change of its clock moves) tells it from a
    later process with the same pid; ``machine_start`` names that start; ``mark`` is in the environment of all that it
    starts."""

    name: str
    pid: int
    created: float
    log: str
    machine_start: str = ""
    mark: str = ""

    @property
    def process(self) -> psutil.Process | None:
        """The running process; None once it ended."""
        try:
            found = psutil.Process(self.pid)
            if self._started(found) and found.status() != psutil.STATUS_ZOMBIE:
                return found
        except psutil.NoSuchProcess:
            pass
        return None

    @property
    def has_session(self) -> bool:
        """Whether the session of this number is the service's: it outlives its leader, but not the machine's restart; a
        later process has its own."""
        if self.machine_start != machine_start():
            return False
        try:
            return self._started(psutil.Process(self.pid))
        except psutil.NoSuchProcess:
            return True

    @property
    def last_lines(self) -> str:
        """End of its log."""
        return tail(Path(self.log))

    def _started(self, process: psutil.Process) -> bool:
        return self.machine_start == machine_start() and abs(_created(process) - self.created) < 0.01


def machine_start() -> str:
    """Names the machine's present run, from its start to its next; its time where the system has no name for it."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def _created(process: psutil.Process) -> float:
    return process.create_time() - psutil.boot_time()


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
    mark = uuid.uuid4().hex
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**environment, MARK_SETTING: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Service(name, process.pid, _created(psutil.Process(process.pid)), str(log), machine_start(), mark)


def stop(services: Iterable[Service], grace: float = 20.0) -> list[str]:
    """End services with everything that they started, also what one that was killed left behind; politely first.

    Returns:
        Names of those that had ended before.
    """
    services = list(services)
    ended = [service.name for service in services if service.process is None]
    alive = processes_of(services)
    _signal(alive, signal.SIGTERM)
    _, left = psutil.wait_procs(alive, timeout=grace)
    left = list({*left, *processes_of(services)})
    _signal(left, signal.SIGKILL)
    psutil.wait_procs(left, timeout=5)
    _reap(services)
    return ended


def processes_of(services: Iterable[Service]) -> list[psutil.Process]:
    """Every running process of the services: of their sessions, with their marks, and what these have started."""
    services = list(services)
    sessions = {service.pid for service in services if service.has_session}
    marks = {service.mark for service in services if service.mark}
    own = [process for process in psutil.process_iter() if _belongs(process, sessions, marks)]
    return list({child for process in own for child in _family(process)})


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


def _belongs(process: psutil.Process, sessions: set[int], marks: set[str]) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # Airflow's processes write their title over their environment: those are found by their session.
        return os.getsid(process.pid) in sessions or process.environ().get(MARK_SETTING) in marks
    except (psutil.Error, OSError):
        return False


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
