"""A running copy of the lab's guest: start, log in, kill, start again from the same disk.

The guest plays the on-premises machine, so its disk is a raw file that the host can read and hash by itself, and its
death is SIGKILL: no flush, no shutdown.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Mapping

from farshore.lab.accelerator import Accelerator, accelerator_for
from farshore.lab.cache import cache_folder
from farshore.lab.command import GUEST_DATABASE, GUEST_SSH, GuestSettings, guest_command
from farshore.lab.image import GuestImage
from farshore.lab.monitor import qmp
from farshore.lab.ports import free_ports
from farshore.lab.shell import Shell
from farshore.model.errors import Refused, Unreachable

log = logging.getLogger(__name__)

BOOT_SECONDS = 600.0
"""Time until a login is possible: an emulated guest on a busy host needs minutes, not seconds."""
_START_TRIES = 3


@dataclass(frozen=True)
class Ports:
    """Ports of the host's loopback that lead into the guest."""

    ssh: int
    database: int


class Guest:
    """One guest in ``folder`` (created here, kept afterwards): its disk, serial log and monitor socket.

    Usable as a context manager, which kills it at the end. Not safe for several threads."""

    def __init__(
        self,
        image: GuestImage,
        folder: Path,
        settings: GuestSettings | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.image = image
        self.folder = folder
        self.settings = settings or GuestSettings()
        self.accelerator = accelerator or accelerator_for(cache_folder(), image.kernel)
        self.disk = folder / "disk.raw"
        self._process: subprocess.Popen[bytes] | None = None
        self._shell: Shell | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if not self.disk.exists():
            image.copy_disk(self.disk)
        self.ports = Ports(*free_ports(2))

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        """Whether its QEMU runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def shell(self) -> Shell:
        """Return root's shell; raises Refused while the guest is off."""
        if self._shell is None:
            raise Refused("The guest is off.", remedy="Start it first.")
        return self._shell

    def start(self) -> None:
        """Power on. Returns as soon as QEMU has its ports. Raises Refused if it cannot run."""
        if self.running:
            return
        complaint: str = ""
        for _ in range(_START_TRIES):
            complaint = self._launch()
            if not complaint:
                self._shell = Shell(self.ports.ssh, self.image.ssh_key, self.image.host_key)
                return
            # Most likely another program took a port since it was chosen.
            self.ports = Ports(*free_ports(2))
        raise Refused(
            f"QEMU did not start: {complaint}", remedy="Read the message, and check that qemu-system-x86 is installed."
        )

    def wait_until_up(self, seconds: float = BOOT_SECONDS) -> float:
        """Wait for the first login; return the seconds since this call. Raises Unreachable."""
        return self.shell.wait(seconds)

    def wait_for_database(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until PostgreSQL in the guest accepts connections. Raises Unreachable."""
        end = time.monotonic() + seconds
        while self.shell.run("pg_isready -q -h 127.0.0.1", check=False).status != 0:
            if time.monotonic() > end:
                raise Unreachable("PostgreSQL in the guest does not start.", remedy="Read its log in the guest.")
            time.sleep(0.5)

    def kill(self) -> None:
        """Simulate the disaster: SIGKILL, now. Does nothing if it is off."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._shell is not None:
            self._shell.close()
            self._shell = None

    def monitor(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Execute a QMP command, such as ``stop`` and ``cont``. Raises Refused, Unreachable."""
        return qmp(self.folder / "qmp", command, arguments)

    def _launch(self) -> str:
        (self.folder / "qmp").unlink(missing_ok=True)
        forwards = {self.ports.ssh: GUEST_SSH, self.ports.database: GUEST_DATABASE}
        command = guest_command(self.settings, self.disk, self.folder, forwards, self.accelerator)
        errors = self.folder / "qemu.log"
        with errors.open("wb") as file:
            # Its own session: an interrupt at the terminal is for the lab, not for the guest.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        while self.running:
            with contextlib.suppress(Unreachable):
                self.monitor("query-status")
                log.info("guest %s runs by %s", self.settings.name, self.accelerator.name)
                return ""
            time.sleep(0.05)
        return errors.read_text(errors="replace").strip()[-500:] or "it ended without a message"
