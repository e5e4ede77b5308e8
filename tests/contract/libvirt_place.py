"""A libvirtd of a test's own: in a mount and a PID namespace, so that nothing of the host's libvirt is touched, and all
that it started ends with it. It shares the host's network, for ports are forwarded from the host's loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contract.guests import POLITE, image, served
from tests.contract.places import QemuPlace, short_folder
from tests.waiting import until

from farshore.sites.libvirt.virsh import Failed, Virsh
from farshore.sites.port import FailoverId, Medium, ServedDisk, UnixAddress, Way, WrittenDisk

_PATIENCE = 180.0
_INSIDE = """
set -e
for place in /run/libvirt /var/lib/libvirt /etc/libvirt /var/log/libvirt /var/cache/libvirt; do
    mkdir -p $place
    mount -t tmpfs tmpfs $place
done
# Users that it insists on, where the package that makes them is not installed.
cp /etc/passwd /etc/group "$1"
getent passwd libvirt-qemu || echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' >> "$1/passwd"
getent group libvirt-qemu || echo 'libvirt-qemu:x:64055:' >> "$1/group"
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mkdir -p /etc/libvirt/qemu/networks /var/log/libvirt/qemu
# Guests run as root, without a security driver; their consoles are files of their own.
printf '%s\\n' 'cgroup_controllers = []' 'security_driver = "none"' 'user = "root"' 'group = "root"' \\
    'remember_owner = 0' 'stdio_handler = "file"' 'namespaces = []' > /etc/libvirt/qemu.conf
printf '%s\\n' 'auth_unix_rw = "none"' > /etc/libvirt/libvirtd.conf
libvirtd --pid-file "$1/libvirtd.pid" --config /etc/libvirt/libvirtd.conf &
wait $!  # the shell is the namespace's init: it takes the machines' processes in, and lets none stay a zombie
"""


@contextmanager
def libvirtd(folder: Path) -> Iterator[str]:
    """Yield the URI of one that runs until the end of the block."""
    log = folder / "libvirtd.log"
    # Mounts of the host come in (tests mount small disks), none goes out.
    namespaces = ["unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with log.open("wb") as said:
        command = [*namespaces, "sh", "-c", _INSIDE, "libvirtd", str(folder)]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        uri = f"qemu+unix:///system?socket=/proc/{server.pid}/root/run/libvirt/libvirt-sock"
        until(lambda: server.poll() is not None or _answers(uri), "libvirtd", seconds=_PATIENCE)
        assert server.poll() is None, log.read_text(errors="replace")
        yield uri
    finally:
        server.kill()  # and with it its PID namespace
        server.wait()


@contextmanager
def _shared(folder: Path) -> Iterator[None]:
    """Let what a test mounts on ``folder`` be seen in namespaces that are made within the block."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _answers(uri: str) -> bool:
    done = subprocess.run(["virsh", "--connect", uri, "version"], capture_output=True, check=False)
    return done.returncode == 0


class LibvirtPlace(QemuPlace):
    """Of a libvirt site. Its machines are found by their UUID, as QEMU's are."""

    parts = ("order.json", "run", "lock", "folder", "domain")
    forwards, ingests = True, False

    def __init__(self, folder: Path, medium: Callable[[FailoverId], Medium], way: Way, uri: str) -> None:
        super().__init__(folder, medium, way)
        self.kind = f"libvirt {way.value} {uri}"
        self.virsh = Virsh(uri)

    def kill(self, failover: FailoverId) -> None:
        for process in self.processes(failover):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        until(lambda: not self.processes(failover) and not self._runs(failover), "the end of the machine")

    def shut_down(self, failover: FailoverId) -> None:
        self.wait_for_guest(failover)
        self.virsh.ask("shutdown", failover, "--mode", "acpi")
        until(lambda: not self._runs(failover), "the guest's end")

    def delete(self, failover: FailoverId, part: str) -> None:
        if part == "domain":
            self.virsh.ask("undefine", failover, "--keep-nvram")
        else:
            super().delete(failover, part)

    def _runs(self, failover: FailoverId) -> bool:
        with contextlib.suppress(Failed):
            return self.virsh.ask("domstate", failover) in ("running", "paused", "in shutdown")
        return False


@contextmanager
def libvirt_place(code: bytes = POLITE, way: Way = Way.SERVED) -> Iterator[LibvirtPlace]:
    """A place whose machines boot ``code``; what still runs there ends with the block."""
    with short_folder() as folder, short_folder() as disks, short_folder() as state, contextlib.ExitStack() as held:
        held.enter_context(_shared(folder))
        uri = held.enter_context(libvirtd(state))
        if way is Way.WRITTEN:
            yield LibvirtPlace(folder, lambda failover: WrittenDisk(image(disks / failover, code)), way, uri)
        else:
            disk = ServedDisk(UnixAddress(held.enter_context(served(disks, code))), "0")
            yield LibvirtPlace(folder, lambda _: disk, way, uri)
