"""Build the QEMU command line of the lab's guest. Pure: settings in, argument list out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping, Sequence

from farshore.lab.accelerator import Accelerator
from farshore.sites.qemu.confinement import SANDBOX

QEMU = "qemu-system-x86_64"
GUEST_SSH = 22
GUEST_DATABASE = 5432
HOST_SEEN_FROM_GUEST = "10.0.2.2"
"""The host's loopback, as seen in the guest's user-mode network."""


@dataclass(frozen=True)
class GuestSettings:
    """The choices for one run. ``memory`` in MiB; ``data_disks`` are raw images beside the boot disk."""

    name: str = "onprem"
    memory: int = 1024
    processors: int = 2
    data_disks: Sequence[Path] = field(default=())


def guest_command(
    settings: GuestSettings, disk: Path, folder: Path, forwards: Mapping[int, int], accelerator: Accelerator
) -> list[str]:
    """Return the arguments that start the guest; ``forwards`` maps ports of the host's loopback to the guest's.

    ``folder`` gets ``serial.log`` and the QMP socket ``qmp``. The process stays in the foreground. It runs under QEMU's
    seccomp filter, but as the user who started it and with access to the host's loopback: the lab made this guest
    itself, its disks are that user's files, and the guest's agent talks to servers of this host."""
    command = [QEMU, "-name", settings.name, "-nodefaults", "-no-user-config", "-display", "none"]
    command += ["-machine", "pc", *accelerator.arguments()]
    command += ["-m", str(settings.memory), "-smp", str(settings.processors), "-rtc", "base=utc"]
    command += ["-serial", f"file:{folder / 'serial.log'}"]
    command += ["-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"]
    command += ["-device", "virtio-rng-pci"]
    for number, path in enumerate((disk, *settings.data_disks)):
        command += _disk(number, path)
    network = "user,id=net0,ipv6=off"
    for host, guest in sorted(forwards.items()):
        network += f",hostfwd=tcp:127.0.0.1:{host}-:{guest}"
    return [*command, "-netdev", network, "-device", "virtio-net-pci,netdev=net0,romfile=", *SANDBOX]


def _disk(number: int, path: Path) -> list[str]:
    # Not O_DIRECT: the image is sparse, and the host's copy in memory survives the guest's sudden death.
    file = f"driver=file,filename={path},node-name=file{number},cache.direct=off,discard=unmap"
    format_ = f"driver=raw,file=file{number},node-name=disk{number},discard=unmap"
    device = f"virtio-blk-pci,drive=disk{number},serial=lab-disk-{number}"
    if number == 0:
        device += ",bootindex=1"
    return ["-blockdev", file, "-blockdev", format_, "-device", device]
