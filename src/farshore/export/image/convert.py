"""Writes a source to an image file: qemu-img reads it from our own NBD server and knows the formats.

The image appears under its name when it is whole and durable; until then it is ``<name>.part``.
"""

from __future__ import annotations

import enum
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from farshore.export.device import ReadOnlyDevice
from farshore.export.image.padded import PaddedSource
from farshore.export.nbd.server import NbdServer
from farshore.export.read_cache import ReadCache
from farshore.model.errors import NoSpace, Refused, TryLater
from farshore.model.ports import BlockSource
from farshore.vault.folder_sync import sync_folder

_MIB = 1 << 20
_PROGRESS = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_CACHE_BYTES = 32 << 20


class ImageFormat(enum.Enum):
    """What can be written."""

    RAW = "raw"
    """Sparse."""
    QCOW2 = "qcow2"
    """Compressed with zstd."""
    VHD = "vhd"
    """Fixed, a whole number of MiB: what Azure takes as a managed disk."""
    VMDK = "vmdk"
    """Stream-optimised: what vSphere imports."""


_OPTIONS = {
    ImageFormat.RAW: ("-O", "raw"),
    ImageFormat.QCOW2: ("-c", "-O", "qcow2", "-o", "compression_type=zstd"),
    ImageFormat.VHD: ("-O", "vpc", "-o", "subformat=fixed,force_size=on"),
    ImageFormat.VMDK: ("-O", "vmdk", "-o", "subformat=streamOptimized"),
}


def write_image(
    source: BlockSource,
    path: Path,
    format_: ImageFormat,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> None:
    """Write ``source`` to ``path``, which must not exist; ``progress`` gets 0…1. The source is closed in any case.

    Raises Refused (qemu-img is missing, the path is taken), NoSpace, TryLater (a read failed; the log says which).
    """
    size = source.size
    if format_ is ImageFormat.VHD:
        size = -(-size // _MIB) * _MIB
    device = ReadOnlyDevice(ReadCache(PaddedSource(source, size), _CACHE_BYTES))
    try:
        if shutil.which("qemu-img") is None:
            raise Refused("qemu-img is not installed.", remedy="Install the package qemu-utils.")
        if path.exists():
            raise Refused(f"{path} exists already.", remedy="Choose another name, or remove it.")
        part = path.with_name(path.name + ".part")
        try:
            with tempfile.TemporaryDirectory(prefix="farshore-image-") as folder:
                _convert(device, Path(folder) / "nbd.sock", part, format_, progress)
            _make_durable(part, path)
        finally:
            part.unlink(missing_ok=True)
    finally:
        device.close()


def _convert(
    device: ReadOnlyDevice, socket: Path, part: Path, format_: ImageFormat, progress: Callable[[float], None]
) -> None:
    server = NbdServer({"0": device}, default="0")
    server.listen_unix(socket)
    server.start()
    try:
        command = ["qemu-img", "convert", "-p", "-f", "raw", *_OPTIONS[format_], f"nbd+unix:///0?socket={socket}"]
        process = subprocess.Popen(
            [*command, str(part)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            try:
                while piece := os.read(process.stdout.fileno(), 4096):
                    for fraction in _PROGRESS.findall(piece):
                        progress(float(fraction) / 100)
                complaint = process.stderr.read().decode(errors="replace").strip()
            except BaseException:
                process.kill()
                raise
            finally:
                process.wait()
    finally:
        server.close()
    if process.returncode != 0:
        if "No space left" in complaint:
            raise NoSpace(f"There is no room for {part.name}.", remedy="Make room, then repeat.")
        raise TryLater(f"qemu-img could not write the image: {complaint[-300:]}", remedy="See the log, then repeat.")


def _make_durable(part: Path, path: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(path)
    sync_folder(path.parent)
