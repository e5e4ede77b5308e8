"""Recovered machines as QEMU processes of this host, one folder each.

A machine is a detached process: it outlives the server that started it, and all that is known of it lies in its
folder (``RunFiles``) and in the process table, so any later server finds it again. A process is only ever taken for
a machine's if its command line names the machine's folder: process ids are used anew. QEMU may be in its guest's hands,
so it is lent what it needs and can write to nothing in that folder but the console and the UEFI variables.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from farshore.model.errors import Damaged, NotFound, Refused, TryLater, Unreachable
from farshore.sites.port import Condition, FailoverId, RecoveredMachine, RecoveryOrder
from farshore.sites.qemu.accelerator import FIRMWARE, QEMU, choose_accelerator
from farshore.sites.qemu.command import NOTHING_LENT, Host, Lent, RunFiles, has_variables, literal, qemu_command
from farshore.sites.qemu.confinement import Lending, confined
from farshore.sites.qemu.monitor import ask

_ORDER = TypeAdapter(RecoveryOrder)
_START_SECONDS = 120.0
_END_SECONDS = 20.0
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 2.0
_ADDRESS = "127.0.0.1"
CONSOLE_BYTES = 16 << 20
"""What is kept, at least half of it: a guest may write without end."""
_CONSOLE_STEP = 1 << 20
"""A multiple of any file system's block."""
_PAUSED = ("paused", "io-error", "internal-error", "prelaunch", "postmigrate", "suspended")


class QemuSite:
    """The site below ``folder``; ``accelerator`` None: found out by booting, once after each start of the host."""

    def __init__(
        self, folder: Path, accelerator: str | None = None, kernel: Path | None = None, *, name: str = "qemu"
    ) -> None:
        self.name = name
        self._folder = folder
        self._accelerator = accelerator
        self._kernel = kernel

    def check(self, order: RecoveryOrder) -> None:
        if shutil.which(QEMU) is None:
            raise Refused("QEMU is not installed here.", remedy="Install the package qemu-system-x86.")
        if not order.disks:
            raise Refused(f"{order.name} has no disk to start from.", remedy="Choose a point with its disks.")
        qemu_command(order, self._files(order.failover), self._host(), NOTHING_LENT)

    def examine(self) -> dict[str, str]:
        """See Examined."""
        if shutil.which(QEMU) is None:
            raise Refused("QEMU is not installed here.", remedy="Install the package qemu-system-x86.")
        self._folder.mkdir(parents=True, exist_ok=True)
        host = self._host()
        free = shutil.disk_usage(self._folder).free
        return {
            "accelerator": host.accelerator,
            "processors": str(host.processors),
            "UEFI firmware": str(host.firmware or "not installed: machines with UEFI do not start (package ovmf)"),
            "free space": f"{free >> 20} MiB",
        }

    def create(self, order: RecoveryOrder) -> None:
        files = self._files(order.failover)
        text = _ORDER.dump_json(order, indent=1).decode()
        if files.order.exists() and files.order.read_text() == text:
            return
        if self._process(order.failover) is not None:
            raise Refused(f"{order.name} runs already, otherwise made.", remedy="Stop it first.")
        host = self._host()
        qemu_command(order, files, host, NOTHING_LENT)
        files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if host.firmware is not None and has_variables(order):
            template = host.firmware.with_name(host.firmware.name.replace("_CODE", "_VARS"))
            shutil.copyfile(template, files.variables)
        _replace(files.order, text)

    def start(self, failover: FailoverId) -> RecoveredMachine:
        files = self._files(failover)
        if not files.order.exists():
            raise NotFound(f"There is no recovered machine {failover} here.", remedy="Create it first.")
        found = self.status(failover)
        if found.condition in (Condition.RUNNING, Condition.PAUSED):
            return found
        with Lending() as lending:
            lock = lending.file(files.lock, os.O_RDONLY | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return self.status(failover)  # another start came first
            process = self._launch(self.order(failover), files, lending)
        try:
            # Somebody listens from the beginning; the answer comes once the machine is made.
            ask(files.monitor, "query-status", timeout=_START_SECONDS)
        except Unreachable as error:
            if _has_ended(process):
                said = files.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it did not say why"]
                raise TryLater(
                    f"QEMU did not start: {said[0]}", remedy="Remove the cause that QEMU names, then repeat."
                ) from error
            process.kill()
            process.wait()
            raise TryLater(
                f"QEMU did not come up within {_START_SECONDS:.0f} s.", remedy="Look whether its disks' export answers."
            ) from error
        # Whoever waits for it leaves no zombie; it outlives this process all the same.
        threading.Thread(target=process.wait, name=f"machine {failover}", daemon=True).start()
        return self.status(failover)

    def _launch(self, order: RecoveryOrder, files: RunFiles, lending: Lending) -> subprocess.Popen[bytes]:
        console = lending.file(files.console, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        variables = lending.file(files.variables, os.O_RDWR) if has_variables(order) else -1
        sockets = {path: lending.socket(path) for path in {disk.socket for disk in order.disks}}
        files.monitor.unlink(missing_ok=True)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor,
            files.pid.open("wb") as pid,
            files.log.open("wb") as log,
        ):
            monitor.bind(str(files.monitor))
            files.monitor.chmod(0o600)
            monitor.listen(8)
            lent = Lent(monitor.fileno(), console, variables, sockets)
            run = qemu_command(order, files, self._host(), lent)
            command = confined(run, machine=order.failover, ports=sorted(order.forward))
            try:
                return subprocess.Popen(
                    # The number stands in the file before QEMU begins, whatever becomes of this process meanwhile.
                    ["/bin/sh", "-c", 'echo $$; exec "$@" >&2', "sh", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=pid,
                    stderr=log,
                    pass_fds=(monitor.fileno(), *lending.descriptors),
                    # A signal to the server's process group is not meant for its machines.
                    start_new_session=True,
                    cwd="/",
                )
            except OSError as error:
                raise Refused(f"QEMU cannot be started: {error}.", remedy="Install qemu-system-x86.") from error

    def status(self, failover: FailoverId) -> RecoveredMachine:
        files = self._files(failover)
        if not files.folder.exists():
            return RecoveredMachine(failover, Condition.ABSENT)
        if self._process(failover) is None:
            return RecoveredMachine(failover, Condition.STOPPED)
        try:
            state = str(ask(files.monitor, "query-status")["status"])
        except Unreachable as error:
            # It exists; a monitor that is busy (QEMU reconnects to a disk) is no reason to call it dead.
            return RecoveredMachine(failover, Condition.RUNNING, _ADDRESS, error.message)
        condition = Condition.PAUSED if state in _PAUSED else Condition.RUNNING
        return RecoveredMachine(failover, condition, _ADDRESS, "" if condition is Condition.RUNNING else state)

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        files = self._files(failover)
        if grace > 0 and self._process(failover) is not None:
            with contextlib.suppress(Unreachable):
                ask(files.monitor, "system_powerdown")
            if self._ends(failover, grace):
                return
        with contextlib.suppress(Unreachable):
            # It closes its disks in order; what the guest had not flushed is in the overlay already.
            ask(files.monitor, "quit")
            if self._ends(failover, _END_SECONDS / 2):
                return
        process = self._process(failover)
        if process is not None:
            os.kill(process, signal.SIGKILL)
        if not self._ends(failover, _END_SECONDS):
            raise TryLater(
                f"The process of {failover} does not end.", remedy="Look what holds it (its disks, perhaps)."
            )

    def destroy(self, failover: FailoverId) -> None:
        self.stop(failover, grace=0)
        folder = self._files(failover).folder
        if folder.exists():
            shutil.rmtree(folder)

    def present(self) -> tuple[FailoverId, ...]:
        if not self._folder.exists():
            return ()
        return tuple(FailoverId(path.name) for path in sorted(self._folder.iterdir()) if path.is_dir())

    def resume(self, failover: FailoverId) -> None:
        """Let a machine go on that a disk's silence had paused. Raises Unreachable."""
        ask(self._files(failover).monitor, "cont")

    def answers(self, failover: FailoverId, port: int) -> bool:
        """Whether the guest accepts connections there: QEMU itself accepts every one, before it knows."""
        files = self._files(failover)
        sign = re.compile(rf"^\s*TCP\[ESTABLISHED\]\s+\d+\s+\S+\s+{port}\s", re.MULTILINE)
        try:
            with socket.create_connection((_ADDRESS, port), timeout=_ANSWER_SECONDS) as peer:
                peer.settimeout(_POLL_SECONDS)
                end = time.monotonic() + _ANSWER_SECONDS
                while time.monotonic() < end:
                    told = ask(files.monitor, "human-monitor-command", {"command-line": "info usernet"})
                    if sign.search(str(told)):
                        return True
                    if _hung_up(peer):
                        return False
        except (OSError, Unreachable):
            # No listener, or a monitor that is busy: it does not answer yet.
            return False
        return False

    def console(self, failover: FailoverId) -> Path:
        """What the machine said on its first serial port."""
        return self._files(failover).console

    def trim_console(self, failover: FailoverId) -> None:
        """Keep the newest half, where it is longer than CONSOLE_BYTES; all is dropped where the file system cannot take
        out a part (fallocate(2), FALLOC_FL_COLLAPSE_RANGE). QEMU appends, so it goes on behind what is kept."""
        path = self._files(failover).console
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        if size <= CONSOLE_BYTES:
            return
        drop = (size - CONSOLE_BYTES // 2) // _CONSOLE_STEP * _CONSOLE_STEP
        command = ["fallocate", "--collapse-range", "--offset", "0", "--length", str(drop), str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            os.truncate(path, 0)

    def order(self, failover: FailoverId) -> RecoveryOrder:
        """What was ordered. Raises NotFound, Damaged."""
        path = self._files(failover).order
        try:
            return _ORDER.validate_json(path.read_text())
        except FileNotFoundError as error:
            raise NotFound(f"There is no recovered machine {failover} here.", remedy="Create it first.") from error
        except ValidationError as error:
            raise Damaged(
                f"{path} is not a recovery order.", remedy="Destroy the machine and fail over again."
            ) from error

    def _files(self, failover: FailoverId) -> RunFiles:
        if not failover or Path(failover).name != failover or failover.startswith("."):
            raise Refused(f"{failover!r} is no failover's id.", remedy="Use the id that the failover was given.")
        return RunFiles(self._folder.absolute() / failover)

    def _host(self) -> Host:
        if self._accelerator is None:
            self._accelerator = choose_accelerator(self._folder, self._kernel)
        firmware = next((path for path in FIRMWARE if path.exists()), None)
        return Host(self._accelerator, os.cpu_count() or 1, firmware)

    def _process(self, failover: FailoverId) -> int | None:
        """The process that runs this machine, if one does."""
        files = self._files(failover)
        try:
            process = int(files.pid.read_text())
        except (OSError, ValueError):
            return None
        return process if _is_ours(process, str(files.pid)) else None

    def _ends(self, failover: FailoverId, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self._process(failover) is not None:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def _is_ours(process: int, mark: str) -> bool:
    """Whether ``process`` lives and its command line has the argument ``mark``. A zombie has no command line."""
    try:
        arguments = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # Machines that releases before this one started name it by -pidfile.
    return mark.encode() in arguments or any(one.endswith(b",opaque=" + literal(mark).encode()) for one in arguments)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has, or does now that its monitor is closed."""
    try:
        process.wait(_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _hung_up(peer: socket.socket) -> bool:
    """Wait a moment for the end of a connection."""
    try:
        return not peer.recv(1)
    except TimeoutError:
        return False


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
