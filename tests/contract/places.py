"""Places where a recovery site is tried: what the contract's tests do to its machines behind its back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pyVmomi.SoapAdapter import SoapStubAdapter
from tests.contract.azure_place import open_azure
from tests.contract.guests import POLITE, SIZE, image, served
from tests.file_site import FileSite, Fuse
from tests.unit.sites.test_command import MACHINE
from tests.vcenter.running import PASSWORD, USER
from tests.waiting import until

from farshore.model.machine import NicDescription
from farshore.sites.libvirt.settings import LibvirtSettings
from farshore.sites.libvirt.site import LibvirtSite
from farshore.sites.port import (
    AttachedDisk,
    FailoverId,
    Medium,
    RecoveryOrder,
    RecoverySite,
    ServedDisk,
    UnixAddress,
    Way,
    WrittenDisk,
)
from farshore.sites.qemu.command import RunFiles
from farshore.sites.qemu.monitor import ask
from farshore.sites.qemu.site import QemuSite
from farshore.sites.vsphere.settings import VsphereSettings
from farshore.sites.vsphere.site import VsphereSite

_PAGE = 4096


class Place(Protocol):
    """A folder, and what runs in it."""

    kind: str
    """Of site, and how it takes disks."""
    folder: Path
    parts: Sequence[str]
    """What somebody may delete by hand."""
    forwards: bool
    """Ports of this host lead to its machines."""
    ingests: bool
    """A machine has its own copy of its disks once it is created."""

    def order(self, **changes: Any) -> RecoveryOrder:
        """A machine that waits for its power button, under an id of its own."""
        ...

    def living(self, failover: FailoverId) -> int:
        """How many machines of it run, whatever the site knows."""
        ...

    def kill(self, failover: FailoverId) -> None:
        """Let the machine die, and what is left of one that has ended; return when it is gone."""
        ...

    def shut_down(self, failover: FailoverId) -> None:
        """Let the guest shut itself down; return when it has."""
        ...

    def delete(self, failover: FailoverId, part: str) -> None:
        """Delete something by hand."""
        ...


def open_site(kind: str, folder: Path) -> RecoverySite:
    """A site as another server would open it."""
    name, _, way = kind.partition(" ")
    if name == "libvirt":
        way, _, uri = way.partition(" ")
        return LibvirtSite(folder, LibvirtSettings.model_validate({"uri": uri, "accelerator": "tcg", "disks": way}))
    if name == "vsphere":
        port, _, fingerprint = way.partition(" ")
        return VsphereSite(folder, vsphere_settings(int(port), fingerprint), PASSWORD)
    if name == "azure":
        return open_azure(folder, Path(way.partition(" ")[2]))
    if name == "qemu":
        return QemuSite(folder, accelerator="tcg", way=Way(way))
    return FileSite(folder, Fuse(0), way=Way(way))


def vsphere_settings(port: int, fingerprint: str, **more: str) -> VsphereSettings:
    """Of a site at a simulated vCenter."""
    fields: dict[str, Any] = {"host": "127.0.0.1", "port": port, "user": USER, "fingerprint": fingerprint}
    return VsphereSettings.model_validate({**fields, "network": "VM Network", **more})


class FilePlace:
    """Of tests.file_site.FileSite."""

    parts = ("folder",)
    forwards, ingests = True, False

    def __init__(self, folder: Path, way: Way, disks: Path) -> None:
        self.kind = f"files {way.value}"
        self.folder = folder
        self._way, self._disks = way, disks
        self._site = FileSite(folder, Fuse(0))

    def order(self, **changes: Any) -> RecoveryOrder:
        if self._way is Way.WRITTEN:
            return an_order(lambda failover: WrittenDisk(image(self._disks / failover, POLITE)), **changes)
        return an_order(lambda _: ServedDisk(UnixAddress(Path("/run/nowhere/nbd.sock")), "0"), **changes)

    def living(self, failover: FailoverId) -> int:
        known = self._site.read(failover)
        return int(known is not None and bool(known["running"]) and not (self.folder / f"{failover}.died").exists())

    def kill(self, failover: FailoverId) -> None:
        self._site.die(failover)

    def shut_down(self, failover: FailoverId) -> None:
        self._site.shut_down(failover)

    def delete(self, failover: FailoverId, part: str) -> None:
        (self.folder / f"{failover}.json").unlink()


class QemuPlace:
    """Of the QEMU site. Its processes are found by their UUID, not by what the site wrote down."""

    parts = ("order.json", "qemu.pid", "qemu.lock", "qmp.sock", "folder")
    forwards, ingests = True, False

    def __init__(self, folder: Path, medium: Callable[[FailoverId], Medium], way: Way) -> None:
        self.kind = f"qemu {way.value}"
        self.folder = folder
        self._medium = medium
        self._orders: list[FailoverId] = []

    def order(self, **changes: Any) -> RecoveryOrder:
        made = an_order(self._medium, **changes)
        self._orders.append(made.failover)
        return made

    def living(self, failover: FailoverId) -> int:
        return len(self.processes(failover))

    def kill(self, failover: FailoverId) -> None:
        for process in self.processes(failover):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        until(lambda: not self.processes(failover), "the end of the process")

    def shut_down(self, failover: FailoverId) -> None:
        files = RunFiles(self.folder / failover)
        self.wait_for_guest(failover)
        ask(files.monitor, "system_powerdown")
        until(lambda: ask(files.monitor, "query-status")["status"] == "shutdown", "the guest's end")

    def wait_for_guest(self, failover: FailoverId, times: int = 1) -> None:
        """Wait until a guest has said ``times`` times that it is up."""
        console = RunFiles(self.folder / failover).console
        until(lambda: console.exists() and console.read_bytes().count(b"up\n") >= times, "the guest")

    def delete(self, failover: FailoverId, part: str) -> None:
        folder = self.folder / failover
        if part == "folder":
            subprocess.run(["rm", "-r", str(folder)], check=True)
        else:
            (folder / part).unlink()

    def close(self) -> None:
        for failover in self._orders:
            self.kill(failover)

    def processes(self, failover: FailoverId) -> list[int]:
        """The machine's processes."""
        return processes_of(failover)


def processes_of(failover: str) -> list[int]:
    """The QEMU processes of a machine, found by its UUID."""
    mark = b"\0-uuid\0" + failover.encode() + b"\0"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def an_order(medium: Callable[[FailoverId], Medium], **changes: Any) -> RecoveryOrder:
    """The smallest machine that runs."""
    machine = replace(MACHINE, processors=1, memory=64 << 20, nics=(NicDescription("eth0", "52:54:00:00:00:01"),))
    failover = FailoverId(str(uuid.uuid4()))
    order = RecoveryOrder(
        failover=failover,
        name="db1",
        machine=machine,
        disks=(AttachedDisk(0, SIZE, medium(failover), boot=True),),
        isolated=True,
    )
    return replace(order, **changes)


@contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a folder whose sockets keep within their 108 bytes, however long the test's own folder is called."""
    with tempfile.TemporaryDirectory(prefix="fs-") as folder:
        yield Path(folder)


@contextmanager
def qemu_place(code: bytes = POLITE, way: Way = Way.SERVED) -> Iterator[QemuPlace]:
    """A place whose machines boot ``code``; what still runs there ends with the block."""
    with short_folder() as folder, short_folder() as disks, contextlib.ExitStack() as held:
        if way is Way.WRITTEN:
            place = QemuPlace(folder, lambda failover: WrittenDisk(image(disks / failover, code)), way)
        else:
            disk = ServedDisk(UnixAddress(held.enter_context(served(disks, code))), "0")
            place = QemuPlace(folder, lambda _: disk, way)
        try:
            yield place
        finally:
            place.close()


class SmallDisk:
    """A file system of 256 KiB at ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave not one byte."""
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while file.write(b"x" * _PAGE):
                pass

    def free(self) -> None:
        self._filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mount one at ``folder``."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "none", str(folder)], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


_CHANGES = frozenset(
    ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "subprocess.Popen", "socket.bind", "socket.connect")
)
"""Events of sys.addaudithook."""
_QUESTIONS = frozenset(("domstate", "domname", "domuuid", "list", "metadata"))
"""What virsh is asked without changing a thing."""
_ASKING = (
    "Retrieve",
    "Find",
    "Fetch",
    "Query",
    "Login",
    "Logout",
    "CreateContainerView",
    "DestroyView",
    "HasPrivilege",
)
"""Beginnings of the calls to a VMware server that change nothing."""
_MAKING = os.O_CREAT | os.O_TRUNC
_CHANGING = (b"PUT ", b"POST ", b"DELETE ")
"""Requests that change what a provider has."""


def call_and_die(kind: str, folder: Path, order: RecoveryOrder, call: str, at: int, passed: Path) -> None:
    """Carry out one call in this process, which dies by SIGKILL before its ``at``-th change to the world (0: after the
    last). ``passed`` gets the number of changes."""
    site = open_site(kind, folder)
    if call != "create":
        site.create(order)
    if call in ("stop", "destroy"):
        site.start(order.failover)
    fuse = Fuse(at)

    def moment(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "http.client.send":
            if bytes(arguments[1][:7]).startswith(_CHANGING):
                fuse.moment()
            return
        if event == "socket.connect" and kind.startswith("azure"):
            return
        if event == "subprocess.Popen" and _QUESTIONS & set(arguments[1]):
            return
        if event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _MAKING):
            fuse.moment()

    sys.addaudithook(moment)
    _tell_of_calls(fuse)
    if call == "create":
        site.create(order)
    elif call == "start":
        site.start(order.failover)
    elif call == "stop":
        site.stop(order.failover, grace=0)
    else:
        site.destroy(order.failover)
    count = fuse.passed
    fuse.at = 0
    passed.write_text(str(count))
    os.kill(os.getpid(), signal.SIGKILL)


def _tell_of_calls(fuse: Fuse) -> None:
    """Each call to a VMware server that changes something is a moment, too: they share one connection."""
    invoke = SoapStubAdapter.InvokeMethod

    def invoked(stub: Any, this: Any, info: Any, arguments: Any, outer: Any = None) -> Any:
        if not info.wsdlName.startswith(_ASKING):
            fuse.moment()
        return invoke(stub, this, info, arguments, outer)

    SoapStubAdapter.InvokeMethod = invoked
