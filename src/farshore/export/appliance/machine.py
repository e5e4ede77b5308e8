"""Boot the appliance and keep it running: QEMU without rights (``sites.qemu.confinement``), with disks and a wire.

The appliance ends when its program does. If this process dies, a second socket closes (``life``), and the appliance
powers off at once, whatever its program waits for.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from farshore.export.appliance.contents import BUSYBOX, Contents, which
from farshore.export.appliance.kernel import Kernel, find_kernel
from farshore.model.errors import Refused
from farshore.sites.qemu.accelerator import QEMU, choose_accelerator
from farshore.sites.qemu.confinement import Lending, confined

MOST_DISKS = 24
"""Each disk takes one of the 32 slots of the bus."""
_MEMORY_MIB = 512
_FILES = 10
"""Numbers of descriptor sets from here on are disks' files."""
_READY = b"ready\n"
_PROCESSORS = {"kvm": "host", "tcg": "Westmere"}
"""Emulated: the least that Debian's Python needs, see docs/decisions/2026-11-22-lab-guest.md."""
_CONSOLE_BYTES = 64 << 10


class DidNotStart(Exception):
    """The appliance did not reach its program. The message is the end of its console output."""


@dataclass(frozen=True)
class Disk:
    """A disk of the appliance: an export of an NBD server on a Unix socket; with ``raw``, a file of this host with the
    disk's bytes. The program identifies it by ``serial``, which the kernel shows in /sys/class/block/*/serial: at most
    20 characters. A flush of the program reaches the server, or the file."""

    at: Path
    serial: str
    export: str = "0"
    raw: bool = False
    image: str = ""
    """With ``raw``: the file's image format, if it is not raw."""
    read_only: bool = False
    sector_size: int = 512
    """In bytes. Partition tables count in sectors."""


class Running:
    """An appliance whose program runs. ``close`` ends it at once, like a power cut: a program that writes must have
    ended before, which ``wait`` waits for."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        wire: socket.socket,
        life: socket.socket,
        console: Path,
        accelerator: str,
    ) -> None:
        self.wire = wire
        self._life = life
        self.accelerator = accelerator
        """kvm or tcg."""
        self._process = process
        self._console = console

    def console(self) -> str:
        """Return the end of the console output of kernel and program."""
        with contextlib.suppress(OSError), self._console.open("rb") as file:
            file.seek(max(0, self._console.stat().st_size - _CONSOLE_BYTES))
            return file.read().decode(errors="replace").replace("\r", "")
        return ""

    def wait(self) -> None:
        """Wait until the appliance has powered off."""
        self._process.wait()

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self.wire.close()
        self._life.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def missing() -> list[str]:
    """Return the missing packages that the appliance needs."""
    packages = {QEMU: "qemu-system-x86", BUSYBOX: "busybox-static", "modprobe": "kmod", "ldd": "libc-bin"}
    found = [package for program, package in packages.items() if which(program) is None]
    try:
        find_kernel()
    except Refused:
        found.append("linux-image-amd64")
    return found


def start(contents: Contents, disks: Sequence[Disk], folder: Path, patience: float | None = None) -> Running:
    """Boot it over the disks; ``folder`` is an empty one for its files, which must outlive it. ``patience``: how long
    to wait for its program, in seconds; None: as long as QEMU lives.

    Raises Refused (a part is not installed), DidNotStart. If KVM passes the test and then fails, the appliance is
    emulated."""
    if len(disks) > MOST_DISKS:
        raise Refused(
            f"The machine has {len(disks)} disks.", remedy=f"The appliance supports at most {MOST_DISKS} disks."
        )
    if which(QEMU) is None:
        raise Refused(f"{QEMU} is not installed.", remedy="Install the package qemu-system-x86.")
    kernel = find_kernel()
    image = folder / "image"
    with image.open("wb") as file:
        contents.pack(file, kernel)
    image.chmod(0o644)  # the folder's mode keeps others out; QEMU reads it without a copy
    accelerator = _accelerator(kernel)
    if accelerator == "kvm":
        with contextlib.suppress(DidNotStart):
            return _boot(kernel, image, disks, folder, "kvm", patience)
    return _boot(kernel, image, disks, folder, "tcg", patience)


def _accelerator(kernel: Kernel) -> str:
    """Choose by booting this kernel; the result is kept in the user's cache, or found each time if there is no
    cache."""
    given = os.environ.get("FARSHORE_CACHE")
    try:
        return choose_accelerator(Path(given) if given else Path.home() / ".cache" / "farshore", kernel.image)
    except (OSError, RuntimeError):
        with tempfile.TemporaryDirectory(prefix="farshore-probe-") as scratch:
            return choose_accelerator(Path(scratch), kernel.image)


def _boot(
    kernel: Kernel, image: Path, disks: Sequence[Disk], folder: Path, accelerator: str, patience: float | None
) -> Running:
    console, complaints = folder / f"console-{accelerator}", folder / f"qemu-{accelerator}"
    ours, theirs = socket.socketpair()
    life, its_life = socket.socketpair()
    with contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        undo.callback(life.close)
        with theirs, its_life, complaints.open("wb") as errors, Lending() as lending:
            lent = Lent(
                kernel=lending.content(kernel.image),
                image=lending.content(image),
                console=lending.file(console, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                sockets={one: lending.socket(one) for one in {disk.at for disk in disks if not disk.raw}},
                files={disk.at: lending.disk(disk.at, "the appliance") for disk in disks if disk.raw},
                ports=(theirs.fileno(), its_life.fileno()),
            )
            process = subprocess.Popen(
                confined(_command(lent, disks, accelerator)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[*lent.ports, *lending.descriptors],
                start_new_session=True,
                cwd="/",
            )
        running = Running(process, ours, life, console, accelerator)
        undo.callback(running.close)
        ours.settimeout(patience)
        if _first(ours, len(_READY)) != _READY:
            said = running.console() + complaints.read_text(errors="replace")[-_CONSOLE_BYTES:]
            raise DidNotStart(said.strip() or "there was no output")
        ours.settimeout(None)
        undo.pop_all()
        return running


def _first(wire: socket.socket, length: int) -> bytes:
    """Return the first bytes; fewer if QEMU ended before, or the time was over."""
    heard = b""
    with contextlib.suppress(TimeoutError):
        while len(heard) < length and (piece := wire.recv(length - len(heard))):
            heard += piece
    return heard


@dataclass(frozen=True)
class Lent:
    """What QEMU inherits: paths for kernel, initial file system and the disks' sockets; descriptors for the rest."""

    kernel: str
    image: str
    console: int
    sockets: Mapping[Path, str]
    files: Mapping[Path, int]
    ports: tuple[int, int]


def _command(lent: Lent, disks: Sequence[Disk], accelerator: str) -> list[str]:
    command = [QEMU, "-machine", "pc", "-accel", accelerator, "-cpu", _PROCESSORS[accelerator]]
    command += ["-m", str(_MEMORY_MIB), "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none"]
    command += ["-no-reboot", "-kernel", lent.kernel, "-initrd", lent.image]
    # no_timer_check: on a busy host the kernel would find that an emulated timer ticks too seldom, and panic.
    command += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on no_timer_check"]
    command += ["-add-fd", f"fd={lent.console},set=1", "-chardev", "file,id=console,path=/dev/fdset/1"]
    command += ["-serial", "chardev:console", "-device", "virtio-serial-pci"]
    for name, descriptor in zip(("wire", "life"), lent.ports, strict=True):
        command += ["-chardev", f"socket,id={name},fd={descriptor}"]
        command += ["-device", f"virtserialport,chardev={name},name={name}"]
    for place, disk in enumerate(disks):
        source = f"driver={disk.image or 'raw'},node-name=disk{place},discard=unmap"
        source += f",read-only={'on' if disk.read_only else 'off'}"
        if disk.raw:
            number = _FILES + place
            command += ["-add-fd", f"fd={lent.files[disk.at]},set={number}"]
            source += f",file.driver=file,file.filename=/dev/fdset/{number},file.discard=unmap"
        else:
            source += f",file.driver=nbd,file.server.type=unix,file.server.path={_option(lent.sockets[disk.at])}"
            source += f",file.export={_option(disk.export)}"
        command += ["-blockdev", source]
        # The program handles errors: nobody here would resume a paused guest.
        device = f"virtio-blk-pci,drive=disk{place},serial={_option(disk.serial)}"
        if disk.sector_size != 512:
            device += f",logical_block_size={disk.sector_size},physical_block_size={disk.sector_size}"
        command += ["-device", f"{device},rerror=report,werror=report"]
    return command


def _option(value: object) -> str:
    """Escape a value: a comma separates QEMU's options, two are one."""
    return str(value).replace(",", ",,")
