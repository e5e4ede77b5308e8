"""Supervises the servers of an installation: starts them, restarts them after a crash, and stops them.

A lock file shows whether the installation runs. The servers inherit its descriptor, so the lock is held while any of
them lives, even after the supervisor was killed. ``run/state.json`` lists the processes to stop. One is stopped only if
it still holds the lock, as its process id may have been reused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from farshore.client.credentials import Credentials
from farshore.client.management import Management
from farshore.client.transport import Transport
from farshore.model.errors import FarshoreError, TryLater, WrongState
from farshore.telemetry import logs

log = logging.getLogger(__name__)
PROGRAM = "supervisor"
"""The supervisor's name in the log."""
MASTER_TARGET = "master target"
"""The only server that protection and recovery do not need."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
STEADY_SECONDS = 30.0
"""A server that ran this long restarts with the shortest delay."""
MOST_FAILURES = 6
STOP_SECONDS = 15.0
POLL_SECONDS = 0.2
LOG_LINES = 20


@dataclass(frozen=True)
class Installation:
    """The folder of an installation and the paths in it."""

    home: Path

    @property
    def credentials(self) -> Path:
        """The administrator's credentials file."""
        return self.home / "admin.json"

    @property
    def vault_key(self) -> Path:
        """The vault owner's key file."""
        return self.home / "vault.key"

    @property
    def run(self) -> Path:
        """Folder of the lock and the state file."""
        return self.home / "run"

    @property
    def log(self) -> Path:
        """Log file of a detached installation."""
        return self.home / "log" / "farshore.log"

    def api(self) -> Management:
        """Return the API with the administrator's credentials. Raises NotFound, Refused, Malformed."""
        return Management(Transport.from_credentials(Credentials.load(self.credentials)))

    def started(self) -> int:
        """Start time of the current supervisor in ns since 1970 UTC, or 0 if none runs."""
        return int(self.state().get("started", 0))

    def state(self) -> dict[str, int]:
        """Read process ids by name, and ``started``; empty if there is no state file."""
        try:
            found = json.loads((self.run / "state.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return {str(name): int(value) for name, value in found.items()}

    def commands(self) -> dict[str, list[str]]:
        """Return the command line of each server, in the order of their start."""
        python = [sys.executable, "-m"]
        settings = self.home / "process-server" / "settings.toml"
        found = {
            "configuration server": [*python, "farshore.configuration_server", "--home", str(self.home)],
            "process server": [*python, "farshore.process_server.main", "--settings", str(settings)],
        }
        home = self.home / "master-target" / "settings.toml"
        if home.exists():  # it was not left out
            found[MASTER_TARGET] = [*python, "farshore.master_target.main", "--settings", str(home)]
        return found


def _own_environment() -> dict[str, str]:
    """Return our environment without the variables that would point a server to another installation's folders."""
    elsewhere = {"FARSHORE_HOME", "FARSHORE_PROCESS_SERVER_STATE", "FARSHORE_PROCESS_SERVER_CREDENTIALS"}
    elsewhere |= {"FARSHORE_MASTER_TARGET_STATE", "FARSHORE_MASTER_TARGET_CREDENTIALS"}
    return {name: value for name, value in os.environ.items() if name not in elsewhere}


class Child:
    """One server: its process, and when to restart it."""

    def __init__(self, name: str, command: list[str], lock: int) -> None:
        self.name = name
        self._command = command
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self._pause = FIRST_PAUSE
        self._due = 0.0
        self._began = 0.0
        self.failures = 0
        self.was_steady = False
        self.last_status = 0

    @property
    def pid(self) -> int:
        """Process id, or 0 while the server does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_hopeless(self) -> bool:
        """Whether a required server keeps failing shortly after its start, so that a person must look."""
        return self.failures >= MOST_FAILURES and not self.was_steady and self.name != MASTER_TARGET

    def tend(self) -> bool:
        """Notice that the server ended, and restart it when due. Return whether its process changed."""
        now = time.monotonic()
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return False
            if now - self._began >= STEADY_SECONDS:
                self.failures, self._pause, self.was_steady = 0, FIRST_PAUSE, True
            self._process, self.last_status = None, status
            self.failures += 1
            self._due, self._pause = now + self._pause, min(LONGEST_PAUSE, self._pause * 2)
            log.warning("The %s ended with status %d and restarts in %.1f s.", self.name, status, self._due - now)
            return True
        if now < self._due:
            return False
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, pass_fds=(self._lock,), env=_own_environment()
        )
        self._began = now
        return True

    def stop(self, give_up: float) -> None:
        """Stop the server with SIGTERM, then with SIGKILL."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(max(0.1, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("The %s did not stop after SIGTERM and is killed.", self.name)
            self._process.kill()
            self._process.wait()


def run(installation: Installation, when_started: Callable[[], None]) -> None:
    """Run the servers until SIGTERM or SIGINT. Raises WrongState if they run already, TryLater if one keeps failing."""
    stopping = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with _locked(installation) as lock:
            children = [Child(name, command, lock) for name, command in installation.commands().items()]
            _tend_until(stopping, installation, children, when_started)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def start_in_background(installation: Installation) -> None:
    """Start a supervisor in the background, and return once it holds the lock."""
    installation.log.parent.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-m", "farshore.cli.supervisor", str(installation.home)]
    with installation.log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    while process.poll() is None and installation.state().get("supervisor") != process.pid:
        time.sleep(POLL_SECONDS / 4)


def stop(installation: Installation) -> bool:
    """Stop the supervisor, or the servers that a killed one left behind. Return False if nothing ran.

    Returns once each of their processes has ended. Raises TryLater if one does not end.
    """
    if not is_running(installation):
        return False
    state = installation.state()
    with contextlib.ExitStack() as handles:
        ours = {
            pid: handle
            for name, pid in state.items()
            if name != "started" and pid and (handle := _handle(installation, pid, handles)) is not None
        }
        supervisor_pid = state.get("supervisor", 0)
        first = [ours[supervisor_pid]] if supervisor_pid in ours else list(ours.values())
        for signal_number, patience in ((signal.SIGTERM, STOP_SECONDS + 5), (signal.SIGKILL, 5.0)):
            for handle in first if signal_number is signal.SIGTERM else ours.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal_number)
            give_up = time.monotonic() + patience
            while time.monotonic() < give_up:
                if all(_has_ended(handle) for handle in ours.values()) and not is_running(installation):
                    return True
                time.sleep(POLL_SECONDS / 2)
    raise TryLater(f"The installation in {installation.home} does not stop.", remedy="Read its log: farshore logs")


def is_running(installation: Installation) -> bool:
    """Return whether any process of the installation lives."""
    path = installation.run / "lock"
    if not path.exists():
        return False
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def check_not_running(installation: Installation) -> None:
    """Raise WrongState if a supervisor runs, and stop servers that a killed one left behind."""
    if not is_running(installation):
        return
    supervisor_pid = installation.state().get("supervisor", 0)
    if supervisor_pid and _is_of(installation, supervisor_pid):
        raise WrongState(f"The installation in {installation.home} is running.", remedy="Stop it first: farshore down.")
    stop(installation)


def last_log_lines(installation: Installation) -> str:
    """Return the end of a detached installation's log."""
    try:
        lines = installation.log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-LOG_LINES:])


def _tend_until(
    stopping: threading.Event, installation: Installation, children: list[Child], when_started: Callable[[], None]
) -> None:
    began = time.time_ns()
    starter = threading.Thread(target=when_started, name="ready", daemon=True)
    try:
        while not stopping.is_set():
            changed = [child.tend() for child in children]
            if any(changed):
                _write_state(installation, began, children)
                if not starter.ident:
                    starter.start()
            hopeless = next((child for child in children if child.is_hopeless), None)
            if hopeless is not None:
                raise TryLater(
                    f"The {hopeless.name} failed {hopeless.failures} times, last with status {hopeless.last_status}.",
                    remedy="Read its messages above.",
                )
            stopping.wait(POLL_SECONDS)
    finally:
        give_up = time.monotonic() + STOP_SECONDS
        # The process server first, so that the configuration server still gets its last reports.
        for child in reversed(children):
            child.stop(give_up)


def _write_state(installation: Installation, began: int, children: list[Child]) -> None:
    state = {"started": began, "supervisor": os.getpid(), **{child.name: child.pid for child in children}}
    path = installation.run / "state.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(state))
    temporary.replace(path)


@contextlib.contextmanager
def _locked(installation: Installation) -> Iterator[int]:
    installation.run.mkdir(mode=0o700, exist_ok=True)
    with (installation.run / "lock").open("w+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WrongState(
                f"The installation in {installation.home} is running.", remedy="Stop it first: farshore down."
            ) from error
        yield file.fileno()


def _is_of(installation: Installation, pid: int) -> bool:
    """Return whether this process holds the installation's lock; only its supervisor and servers do."""
    lock = (installation.run / "lock").stat()
    with contextlib.suppress(OSError):  # it has ended, or belongs to another user
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed in the meantime
                if os.path.samestat(descriptor.stat(), lock):
                    return True
    return False


def _handle(installation: Installation, pid: int, handles: contextlib.ExitStack) -> int | None:
    """Return a pidfd of this process, closed with ``handles``, or None if it is no process of the installation."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    handles.callback(os.close, handle)
    # read after the pidfd was opened, because the id may be reused
    return handle if _is_of(installation, pid) else None


def _has_ended(handle: int) -> bool:
    """Return whether the process of a pidfd has ended. An ending one drops the lock some time before it is gone."""
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(0))


def main() -> int:
    """Run the detached supervisor."""
    logs.configure(PROGRAM)
    try:
        run(Installation(Path(sys.argv[1])), when_started=lambda: None)
    except FarshoreError as error:
        log.error("%s", error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
