"""The initial file system of the appliance as the kernel unpacks it: a cpio archive, kind "newc".

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux. Uncompressed: an emulated processor takes
longer to decompress it than to read it.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_ALIGNMENT = 4
_END = "TRAILER!!!"


class Archive:
    """Writes entries to ``file``; parent folders are created as needed. Paths are absolute."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._known: set[PurePosixPath] = {PurePosixPath("/")}

    def add(self, path: str, source: Path) -> None:
        """Add a file of this host with its permissions and its time, which Python compares for compiled files."""
        status = source.stat()
        mode = stat.S_IFREG | (status.st_mode & 0o777)
        with source.open("rb") as content:
            if self._begin(path, mode, status.st_size, int(status.st_mtime)):
                shutil.copyfileobj(content, self._file)
                self._pad(status.st_size)

    def add_bytes(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file with this content."""
        if self._begin(path, stat.S_IFREG | mode, len(content)):
            self._file.write(content)
            self._pad(len(content))

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        content = target.encode()
        if self._begin(path, stat.S_IFLNK | 0o777, len(content)):
            self._file.write(content)
            self._pad(len(content))

    def add_folder(self, path: str) -> None:
        """Add an empty folder."""
        self._begin(path, stat.S_IFDIR | 0o755, 0)

    def end(self) -> None:
        """Finish the archive."""
        self._header(_END, 0, 0, 0)

    def _begin(self, path: str, mode: int, size: int, modified: int = 0) -> bool:
        """Write the header. Return False if the archive already has the path: the first one counts."""
        pure = PurePosixPath(path)
        if pure in self._known:
            return False
        for folder in reversed(pure.parents):
            if folder not in self._known:
                self._known.add(folder)
                self._header(str(folder)[1:], stat.S_IFDIR | 0o755, 0, 0)
        self._known.add(pure)
        self._header(str(pure)[1:], mode, size, modified)
        return True

    def _header(self, name: str, mode: int, size: int, modified: int) -> None:
        encoded = name.encode() + b"\0"
        # Number, mode, owner, group, links, time, size, four device numbers, length of the name, no checksum. Equal
        # numbers would mean hard links; there are none, so all are different.
        fields = (len(self._known), mode, 0, 0, 1, modified, size, 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._file.write(header)
        self._pad(len(header))

    def _pad(self, length: int) -> None:
        self._file.write(bytes(-length % _ALIGNMENT))
