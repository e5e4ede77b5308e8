"""Show a source as a file on this host, through our own NBD server and nbdfuse.

Needs no kernel module beyond FUSE, no loop device and no root.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from farshore.export.device import Device, ReadOnlyDevice
from farshore.export.nbd.server import NbdServer
from farshore.export.overlay import OverlayDevice
from farshore.export.read_cache import ReadCache
from farshore.model.errors import Refused, TryLater
from farshore.model.ports import BlockSource

_CACHE_BYTES = 64 << 20
_START_SECONDS = 20.0


@contextlib.contextmanager
def mounted(source: BlockSource, folder: Path, name: str) -> Iterator[Path]:
    """Mount the disk read-only as ``folder/name`` inside the context; ``folder`` must exist. The source is closed at
    its end. Raises Refused (nbdfuse is missing), TryLater (it did not start)."""
    with served(source) as socket, as_file(socket, folder, name, read_only=True) as file:
        yield file


@contextlib.contextmanager
def served(source: BlockSource, overlay: Path | None = None) -> Iterator[Path]:
    """Yield the socket of an NBD server with the disk as export ``0``, inside the context. The source is closed at its
    end. The disk is read-only unless there is a folder for an overlay."""
    cache = ReadCache(source, _CACHE_BYTES)
    device: Device = ReadOnlyDevice(cache) if overlay is None else OverlayDevice(cache, overlay, "a point")
    with contextlib.closing(device), tempfile.TemporaryDirectory(prefix="farshore-mount-") as run:
        socket = Path(run) / "nbd.sock"
        server = NbdServer({"0": device}, default="0")
        server.listen_unix(socket)
        server.start()
        try:
            yield socket
        finally:
            server.close()


@contextlib.contextmanager
def as_file(socket: Path, folder: Path, name: str, *, read_only: bool = False) -> Iterator[Path]:
    """Mount the export on the socket as ``folder/name`` inside the context. Raises Refused, TryLater as ``mounted``
    does."""
    if shutil.which("nbdfuse") is None:
        raise Refused("nbdfuse is not installed.", remedy="Install the package nbdfuse.")
    option = ["-r"] if read_only else []
    command = ["nbdfuse", *option, str(folder / name), f"nbd+unix:///0?socket={socket}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait(process, folder / name)
        yield folder / name
    finally:
        _unmount(folder)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _unmount(folder: Path) -> None:
    """Unmount by FUSE's own tool, which users may run; by umount for root if that is not installed."""
    for command in (["fusermount3", "-u"], ["fusermount", "-u"], ["umount"]):
        if shutil.which(command[0]):
            subprocess.run([*command, str(folder)], check=False, capture_output=True)
            return


def _wait(process: subprocess.Popen[bytes], file: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while not file.exists():
        if process.poll() is not None:
            assert process.stderr is not None
            complaint = process.stderr.read().decode(errors="replace").strip()
            raise TryLater(f"nbdfuse did not start: {complaint[:300]}", remedy="Check /dev/fuse and the mount point.")
        if time.monotonic() > until:
            raise TryLater("nbdfuse did not start in time.", remedy="Try again.")
        time.sleep(0.05)
