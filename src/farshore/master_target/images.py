"""Open a disk for writing in place: a raw file or device directly, an image of another format through QEMU.

QEMU's own locks keep other programs away from an image that it serves, and QEMU refuses one that a guest uses. This
needs FUSE: ``nbdfuse`` shows the served disk as a file (farshore.export.mounted).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from farshore.export.mounted import as_file
from farshore.master_target.target_disk import TargetDisk
from farshore.model.errors import Malformed, NotFound, Refused, TooSmall, TryLater
from farshore.sites.half_written import is_disk
from farshore.vault.reading.whole_file import explained

_QCOW2_HEAD = 80
_EXTERNAL_DATA = 1 << 2
"""A flag in a qcow2 image's incompatible features (its bytes 72 to 79): its data is in another file, which it names."""
FORMATS = ("qcow2", "vmdk", "vpc")
_START_SECONDS = 20.0
_END_SECONDS = 3.0


@contextlib.contextmanager
def opened(path: Path, size: int, image: str) -> Iterator[TargetDisk]:
    """Yield the open disk; ``image`` is empty for a raw one. Raises what TargetDisk raises, and TryLater."""
    if not image:
        with contextlib.closing(TargetDisk(path, size)) as disk:
            yield disk
        return
    if image not in FORMATS:
        raise Malformed(f"{image!r} is not an image format.", remedy=f"Omit it, or use {', '.join(FORMATS)}.")
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise NotFound(
            f"There is no image {path}.", remedy=f"Create it: `qemu-img create -f {image} {path} {size}`."
        ) from error
    if image == "qcow2":
        _check_own_data(path)
    with tempfile.TemporaryDirectory(prefix="farshore-image-") as run, _served(path, image, Path(run)) as socket:
        folder = Path(run) / "disk"
        folder.mkdir()
        with as_file(socket, folder, "raw") as file, contextlib.closing(_whole(file, size, path)) as disk:
            disk.identity = f"file {found.st_dev}:{found.st_ino}"
            disk.path = path
            yield disk


def _check_own_data(path: Path) -> None:
    """Raise Refused for an image whose data is in another file: the image's author chose that file, and nobody has
    checked that it may be overwritten."""
    if not is_disk(path.stat().st_mode):
        raise Refused(f"{path} is neither a file nor a block device.", remedy="Give the path of the image itself.")
    with explained(path), path.open("rb") as file:
        head = file.read(_QCOW2_HEAD)
    version, features = int.from_bytes(head[4:8], "big"), int.from_bytes(head[72:80], "big")
    if version >= 3 and features & _EXTERNAL_DATA:
        raise Refused(
            f"{path} keeps its data in another file.",
            remedy=f"Give that file, as a raw one; or make one of both: `qemu-img convert -O qcow2 {path} NEW`.",
        )


def _whole(file: Path, size: int, image: Path) -> TargetDisk:
    try:
        return TargetDisk(file, size, alone=True)
    except TooSmall as error:
        message = error.message.replace(str(file), str(image))
        raise TooSmall(message, remedy=f"Run `qemu-img resize {image} {size}`.") from error


@contextlib.contextmanager
def _served(path: Path, image: str, run: Path) -> Iterator[Path]:
    if shutil.which("qemu-nbd") is None:
        raise Refused("qemu-nbd is not installed.", remedy="Install the package qemu-utils.")
    socket, log = run / "nbd.sock", run / "log"
    command = ["qemu-nbd", "--persistent", "--shared=4", "--export-name=0", f"--format={image}", "--cache=writeback"]
    command += ["--discard=unmap", "--detect-zeroes=unmap"]
    with log.open("wb") as complaints:
        process = subprocess.Popen(
            [*command, f"--socket={socket}", os.fspath(path.resolve())], stdin=subprocess.DEVNULL, stderr=complaints
        )
    try:
        until = time.monotonic() + _START_SECONDS
        while not socket.exists():
            if process.poll() is not None:
                raise _refused(path, log)
            if time.monotonic() > until:
                raise TryLater("qemu-nbd did not start in time.", remedy="Try again.")
            time.sleep(0.05)
        try:
            yield socket
        except TryLater:
            # It listens before it has opened the image. If the image cannot be opened, it ends, and so do its clients.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
                raise _refused(path, log) from None
            raise
    finally:
        process.terminate()
        process.wait()


def _refused(path: Path, log: Path) -> Refused:
    said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it gave no reason"]
    return Refused(
        f"{path} cannot be written through QEMU: {said[0]}",
        remedy="Shut down the machine that uses it; check its format (`qemu-img info`).",
    )
