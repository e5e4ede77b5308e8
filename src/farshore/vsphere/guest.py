"""Run programs in a machine's guest by VMware's guest operations, for machines that no network reaches.

The guest's tools carry out requests over the hypervisor's own channel: create a folder, read and write files, start a
program, report how it ended. There is no standard input and output, so each command has its own folder, which only its
user may read: one file is its input, and two files are its outputs. The folder is always deleted.
"""

from __future__ import annotations

import contextlib
import http.client
import shlex
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim, vmodl

from farshore.model.errors import FarshoreError, Forbidden, Refused, TryLater, Unreachable, Unsupported
from farshore.vsphere.certificates import context_for, place_of
from farshore.vsphere.power import machine_there
from farshore.vsphere.session import Session

GUEST = ("VirtualMachine.GuestOperations.Query", "VirtualMachine.GuestOperations.Modify",
         "VirtualMachine.GuestOperations.Execute")  # fmt: skip
"""Privileges that this needs."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_TRANSFER_SECONDS = 300.0
_MOST_SAID = 4 << 20
"""Limit for one output, in bytes."""
_PRIVATE = vim.vm.guest.FileManager.PosixFileAttributes(permissions=0o600)
_UNAVAILABLE = (vim.fault.GuestOperationsUnavailable, vim.fault.InvalidPowerState, vim.fault.InvalidState)


@dataclass(frozen=True)
class Ended:
    """How a program ended, and its output."""

    status: int
    output: bytes
    errors: bytes


@dataclass(frozen=True)
class Guest:
    """In one session, as one user of the guest. Not for several threads."""

    session: Session
    machine: str
    name: str
    """The machine's name, for messages."""
    user: str
    password: str = field(repr=False)
    sleep: Callable[[float], None] = time.sleep

    def run(self, command: str, given: bytes, seconds: float) -> Ended:
        """Run a shell command with this input. Raises TryLater if it has not ended in time (it is ended then) or the
        tools do not answer, Forbidden, Unreachable."""
        with self._folder() as folder:
            self._put(f"{folder}/given", given)
            self._put(f"{folder}/run", _script(command, folder).encode())
            status = self._finished(self._start(f"{folder}/run"), seconds)
            return Ended(status, self._get(f"{folder}/output"), self._get(f"{folder}/errors"))

    def put(self, path: str, content: bytes) -> None:
        """Write a file that only its user may read."""
        self._put(path, content)

    @property
    def _auth(self) -> Any:
        return vim.vm.guest.NamePasswordAuthentication(
            username=self.user, password=self.password, interactiveSession=False
        )

    @property
    def _operations(self) -> Any:
        return self.session.content.guestOperationsManager

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        """Send requests to the guest inside; its faults become our errors."""
        with machine_there(self.session, self.machine) as found:
            try:
                yield found
            except vim.fault.InvalidGuestLogin as error:
                raise Forbidden(
                    f"{self.name} does not accept the user {self.user} and the password.",
                    remedy="Give the login of a user of the guest: guest operations cannot use a key.",
                ) from error
            except (vim.fault.GuestPermissionDenied, vim.fault.FileFault) as error:
                said = type(error).__name__.rsplit(".", 1)[-1]
                raise Refused(
                    f"{self.user} may not do that in {self.name} ({said}).",
                    remedy="Log in as root, or give the user this right.",
                ) from error
            except vim.fault.OperationNotSupportedByGuest as error:
                raise Unsupported(
                    f"The tools in {self.name} do not support guest operations.", remedy="Upgrade open-vm-tools there."
                ) from error
            except (*_UNAVAILABLE, vmodl.fault.NotSupported) as error:
                raise TryLater(
                    f"The tools in {self.name} do not answer.", remedy="Start open-vm-tools in the guest, then repeat."
                ) from error

    @contextmanager
    def _folder(self) -> Iterator[str]:
        with self._asked() as found:
            made = self._operations.fileManager.CreateTemporaryDirectoryInGuest(found, self._auth, "farshore-", "")
        folder = str(made)
        try:
            yield folder
        finally:
            with contextlib.suppress(FarshoreError), self._asked() as found:
                self._operations.fileManager.DeleteDirectoryInGuest(found, self._auth, folder, True)

    def _start(self, script: str) -> int:
        program = vim.vm.guest.ProcessManager.ProgramSpec(
            programPath="/bin/sh", arguments=shlex.quote(script), workingDirectory="/"
        )
        with self._asked() as found:
            return int(self._operations.processManager.StartProgramInGuest(found, self._auth, program))

    def _finished(self, process: int, seconds: float) -> int:
        end, pause = time.monotonic() + seconds, _FIRST_PAUSE
        while True:
            with self._asked() as found:
                listed = self._operations.processManager.ListProcessesInGuest(found, self._auth, [process])
            if not listed:
                raise TryLater(f"{self.name} no longer reports how a program ended.", remedy="Repeat the command.")
            if listed[0].endTime is not None:
                return int(listed[0].exitCode or 0)
            if time.monotonic() > end:
                with contextlib.suppress(FarshoreError), self._asked() as found:
                    self._operations.processManager.TerminateProcessInGuest(found, self._auth, process)
                raise TryLater(f"A program in {self.name} took longer than {seconds:.0f} s.", remedy="Try again.")
            self.sleep(pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)

    def _put(self, path: str, content: bytes) -> None:
        with self._asked() as found:
            url = self._operations.fileManager.InitiateFileTransferToGuest(
                found, self._auth, path, _PRIVATE, len(content), True
            )
        self._transfer("PUT", str(url), content)

    def _get(self, path: str) -> bytes:
        with self._asked() as found:
            told = self._operations.fileManager.InitiateFileTransferFromGuest(found, self._auth, path)
        return self._transfer("GET", str(told.url), b"")

    def _transfer(self, method: str, url: str, content: bytes) -> bytes:
        """Transfer a file through the host of the guest, with the certificate that the server knows for it; ``*`` is
        the server itself."""
        host, port, path = place_of(url, self.session.host)
        itself = host in ("*", self.session.host)
        if itself:
            host, port = self.session.host, self.session.login.port
        context = context_for(self.session.login.certificate) if itself else self._of_host()
        connection = http.client.HTTPSConnection(host, port, timeout=_TRANSFER_SECONDS, context=context)
        try:
            connection.request(method, path, body=content or None)
            answer = connection.getresponse()
            said = answer.read(_MOST_SAID)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"{host} interrupted a file transfer for {self.name} ({error}).",
                remedy=f"Open TCP port {port} from here to {host}.",
            ) from error
        finally:
            connection.close()
        if answer.status not in (200, 201):
            raise Unreachable(
                f"{host} refused a file transfer for {self.name} ({answer.status}).", remedy="Repeat the command."
            )
        return said

    def _of_host(self) -> ssl.SSLContext:
        with machine_there(self.session, self.machine) as found:
            shown = bytes(byte & 0xFF for byte in found.runtime.host.config.certificate or [])
        try:
            return context_for(shown.decode("ascii", "replace"))
        except (OSError, ValueError) as error:
            raise TryLater(
                f"{self.session.host} does not know the certificate of the host that runs {self.name}.",
                remedy="Reconnect the host in vCenter, then repeat.",
            ) from error


def _script(command: str, folder: str) -> str:
    """Return a script whose output goes to files, which exist whatever the command does."""
    place = shlex.quote(folder)
    return f"umask 077\n{{ {command}\n}} < {place}/given > {place}/output 2> {place}/errors\n"
