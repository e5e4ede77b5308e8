"""One numbered file of the spool and the references to the frames in it.

A file exists until each of its frames was released. Bodies are read through a shared mapping: recent ones come from the
page cache without a copy, and those that waited for hours from the disk, by the same code.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from farshore.formats.spool import FRAME_HEADER, FrameHeader
from farshore.process_server.spool.disk import SpoolDisk

PREFIX = "spool-"
SPARE = "spare-"


def file_name(number: int) -> str:
    """Return the name of spool file ``number``; names sort as numbers do."""
    return f"{PREFIX}{number:016x}"


class SpoolFile:
    """An open spool file. ``waiting`` counts frames not yet released; the log's lock guards it."""

    def __init__(self, disk: SpoolDisk, number: int, descriptor: int, size: int) -> None:
        self.number = number
        self.size = size
        self.descriptor = descriptor
        self.end = 0
        """Offset of the next frame."""
        self.ordinal = 0
        """The next frame's ordinal."""
        self.waiting = 0
        self.name = file_name(number)
        self._disk = disk
        self._mapping = disk.map(descriptor)
        self.view = memoryview(self._mapping)

    def read(self, offset: int, length: int) -> memoryview:
        """Return a resident view of a range."""
        self._disk.populate(self._mapping, offset, length)
        return self.view[offset : offset + length]

    def close(self) -> None:
        """Close the descriptor; the mapping ends with its last view."""
        os.close(self.descriptor)


@dataclass(frozen=True)
class FrameReference:
    """A durable frame. ``length`` is that of the whole frame in the file, ``body_length`` of its body."""

    header: FrameHeader
    file: SpoolFile
    offset: int
    length: int
    body_length: int

    def body(self) -> memoryview:
        """Return a view of the sealed batch; valid until the frame is released."""
        return self.file.read(self.offset + FRAME_HEADER.size, self.body_length)
