"""The file reader in the appliance (``export.appliance``): it starts wherever QEMU does, and remains for all
requests."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from farshore.export import appliance
from farshore.export.files import inside
from farshore.export.files.user_mode_linux import reason
from farshore.export.files.ways import Answer, NoAnswer, Request
from farshore.model.errors import Refused
from farshore.model.identifiers import DiskNumber

_FILE_SYSTEMS = ("ext4", "xfs", "btrfs", "vfat", "exfat", "ntfs3", "f2fs", "isofs", "udf", "jfs", "hfsplus", "squashfs")
_DEVICES = (
    "dm-mod",
    "dm-snapshot",
    "dm-thin-pool",
    "dm-mirror",
    "dm-raid",
    "raid0",
    "raid1",
    "raid10",
    "raid456",
    "linear",
)
_CHECKSUMS = ("crc32c_generic", "crc32c-intel")
_CONTENTS = appliance.Contents(
    script=Path(inside.__file__),
    programs=("mount", "umount", "blkid", "tar", "vgchange", "mdadm"),
    modules=(*_FILE_SYSTEMS, *inside.CHARACTERS, *_DEVICES, *_CHECKSUMS),
    folders=(f"{inside.HERE}/tree",),
)
_MOST_ANSWER = 256 << 20
"""Bytes: a folder with more than a million files."""
_MOST_PIECE = 1 << 20


class InAppliance:
    """Over NBD sockets, one for each disk."""

    name = "appliance"

    def __init__(self, sockets: Mapping[DiskNumber, Path]) -> None:
        self._sockets = sockets
        self._open = contextlib.ExitStack()
        self._running: appliance.Running | None = None
        self._accelerator = ""

    def lacks(self) -> str:
        """Return the packages that this reader needs."""
        return ", ".join(appliance.missing())

    def description(self) -> str:
        """Describe this reader for people."""
        return (
            "the QEMU appliance (KVM)" if self._accelerator == "kvm" else "the QEMU appliance (emulated, without KVM)"
        )

    def ask(self, request: Request, out: Path | None) -> Answer:
        """Start the appliance unless it runs, and get its answer."""
        sectors = request["sectors"]
        assert isinstance(sectors, list)
        running = self._running or self._started(sectors)
        try:
            _send(running, request)
            answer, complaints = _receive(running, out, bool(request.get("owners")))
        except (ConnectionError, _Ended) as error:
            said = reason(running.console())
            self.close()
            raise NoAnswer(f"it ended before it had answered ({said})") from error
        if out is not None and "error" not in answer:
            answer["complaints"] = [*answer.get("complaints", []), *complaints]
        return answer

    def close(self) -> None:
        """End the appliance at once. Writes to the disks are discarded anyhow."""
        self._running = None
        self._open.close()

    def _started(self, sectors: list[int]) -> appliance.Running:
        try:
            folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="farshore-appliance-")))
            disks = [
                appliance.Disk(socket, f"{inside.SERIAL}{place}", sector_size=size)
                for place, (socket, size) in enumerate(zip(self._sockets.values(), sectors, strict=True))
            ]
            self._running = self._open.enter_context(appliance.start(_CONTENTS, disks, folder))
        except appliance.DidNotStart as error:
            self.close()
            raise NoAnswer(f"it did not start ({reason(str(error))})") from error
        except Refused as error:
            self.close()
            raise NoAnswer(error.message.rstrip(".")) from error
        self._accelerator = self._running.accelerator
        return self._running


class _Ended(Exception):
    """The appliance ended, or sent something invalid."""


def _send(running: appliance.Running, request: Request) -> None:
    content = json.dumps(request).encode()
    running.wire.sendall(inside.FRAME.pack(inside.REQUEST, len(content)) + content)


def _receive(running: appliance.Running, out: Path | None, owners: bool) -> tuple[Answer, inside.Complaints]:
    """Receive the answer, and the problems of writing the archive that precedes it, if there is one."""
    with contextlib.ExitStack() as stack:
        archive: _Archive | None = None
        while True:
            kind, content = _frame(running)
            if kind == inside.ANSWER:
                return json.loads(content), archive.complaints if archive is not None else []
            if out is None:
                raise _Ended
            if archive is None:
                said = stack.enter_context(tempfile.TemporaryFile())
                archive = stack.enter_context(_Archive(out, owners, said))
            if kind == inside.DATA:
                archive.write(content)
            elif kind == inside.END:
                archive.end()
            else:
                raise _Ended


def _frame(running: appliance.Running) -> tuple[bytes, bytearray]:
    kind, length = inside.FRAME.unpack(_read(running, inside.FRAME.size))
    if length > (_MOST_ANSWER if kind == inside.ANSWER else _MOST_PIECE):
        raise _Ended
    return kind, _read(running, length)


def _read(running: appliance.Running, length: int) -> bytearray:
    """Read; memory grows with what arrives, not with what was announced."""
    heard = bytearray()
    while len(heard) < length:
        piece = running.wire.recv(min(length - len(heard), _MOST_PIECE))
        if not piece:
            raise _Ended
        heard += piece
    return heard


class _Archive:
    """tar, which writes what arrives over the wire into a folder. GNU tar puts no member outside of it."""

    def __init__(self, out: Path, owners: bool, said: BinaryIO) -> None:
        """``said``: an empty file for tar's error output."""
        self.complaints: inside.Complaints = []
        self._out = out
        owner = "--same-owner" if owners else "--no-same-owner"
        self._said = said
        self._process = subprocess.Popen(
            ["tar", "-x", "-p", owner, *inside.TAR, "-C", str(out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, "LC_ALL": "C"},
        )

    def write(self, piece: bytearray) -> None:
        """Pass data to tar; after tar has ended, drop the data, because tar's own error says why."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(piece)

    def end(self) -> None:
        """Wait until everything is written; ``complaints`` are tar's."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        status = self._process.wait()
        self._said.seek(0)
        self.complaints = inside.complained(self._said.read(), status)
        if status and os.statvfs(self._out).f_bavail == 0:  # tar only reports that it wrote less than it had
            self.complaints.append(("", os.strerror(errno.ENOSPC), False))

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
