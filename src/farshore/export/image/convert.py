"""Write a source to an image file: qemu-img reads it from our own NBD server and knows the formats.

The image gets its name when it is complete and durable (``farshore.vault.reading.whole_file``).
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
from farshore.export.image import vmdk
from farshore.export.image.padded import PaddedSource
from farshore.export.nbd.server import NbdServer
from farshore.export.read_cache import ReadCache
from farshore.model.errors import NoSpace, Refused, Unsupported
from farshore.model.ports import BlockSource
from farshore.vault.reading.whole_file import whole_file

_MIB, _GIB = 1 << 20, 1 << 30
_MOST_VHD = 2040 * _GIB
_PROGRESS = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_CACHE_BYTES = 32 << 20


class ImageFormat(enum.Enum):
    """The formats that can be written."""

    RAW = "raw"
    """A sparse file."""
    QCOW2 = "qcow2"
    """Compressed with zstd."""
    VHD = "vhd"
    """Fixed, a whole number of MiB: what Azure accepts as a managed disk."""
    VMDK = "vmdk"
    """Stream-optimised, a whole number of its 64 KiB grains: what vSphere imports."""


_STEPS = {ImageFormat.VHD: _MIB, ImageFormat.VMDK: vmdk.GRAIN}
"""The size of a disk is rounded up to a multiple of this, in bytes; qemu-img would write the last grain short."""
_OPTIONS = {
    ImageFormat.RAW: ("-O", "raw"),
    ImageFormat.QCOW2: ("-c", "-O", "qcow2", "-o", "compression_type=zstd"),
    ImageFormat.VHD: ("-O", "vpc", "-o", "subformat=fixed,force_size=on"),
    ImageFormat.VMDK: ("-O", "vmdk", "-o", "subformat=streamOptimized,adapter_type=lsilogic"),
}


def write_image(
    source: BlockSource,
    path: Path,
    format_: ImageFormat,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> None:
    """Write ``source`` to ``path``, which must not exist; ``progress`` gets 0…1. The source is closed in any case.

    Raises Refused (qemu-img is missing, the path exists), Unsupported (the disk is too large for the format), the
    source's errors, and as ``whole_file``."""
    step = _STEPS.get(format_, 1)
    size = -(-source.size // step) * step
    padded = PaddedSource(source, size)
    device = ReadOnlyDevice(ReadCache(padded, _CACHE_BYTES))
    try:
        if shutil.which("qemu-img") is None:
            raise Refused("qemu-img is not installed.", remedy="Install the package qemu-utils.")
        if format_ is ImageFormat.VHD and size > _MOST_VHD:
            raise Unsupported(
                f"A VHD holds {_MOST_VHD // _GIB} GiB at most; the disk has {size / _GIB:.1f} GiB.",
                remedy="Choose another format: raw, qcow2 or vmdk.",
            )
        with whole_file(path, replace=False) as (_, part):
            with tempfile.TemporaryDirectory(prefix="farshore-image-") as folder:
                try:
                    _convert(device, Path(folder) / "nbd.sock", part, format_, progress)
                except Unsupported as error:
                    # qemu-img only learns that an input error occurred; the source knows which one.
                    raise padded.failure or error from error
            if format_ is ImageFormat.VMDK:
                vmdk.rename_extent(part, path.resolve().name)
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
            # The prefix prevents a colon in the name from being read as a protocol's.
            [*command, f"file:{part}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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
        if "No space left" in complaint or "Disk quota" in complaint:
            raise NoSpace(f"There is no space for {part.name}.", remedy="Free space there, then repeat.")
        raise Unsupported(
            f"qemu-img could not write the image: {complaint[-300:]}", remedy="Choose another place or format."
        )
