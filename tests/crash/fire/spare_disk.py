"""A disk that is attached at times, each time with other content, to which nothing is written while it is."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

from tests.loopdisks import plug_in, pull_out

_MIB = 1 << 20


class SpareDisk:
    """``device`` is a loop device of its own, ``image`` a file."""

    def __init__(self, device: Path, image: Path) -> None:
        self.device, self.image = device, image
        self.contents: set[bytes] = set()
        """The digest of each content that it ever had."""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """It is there meanwhile, empty: a disk that is named has to be there when the agent enrols."""
        self.image.write_bytes(bytes(8 * _MIB))
        plug_in(self.device, self.image)
        try:
            yield
        finally:
            pull_out(self.device)

    def attach(self, chance: random.Random) -> None:
        """Put it into the machine."""
        content = chance.randbytes(2 * _MIB) + bytes(6 * _MIB)
        self.image.write_bytes(content)
        self.contents.add(digest(content))
        plug_in(self.device, self.image)

    def pull_out(self) -> None:
        """Take it out, without a word to anybody."""
        pull_out(self.device)


def digest(content: bytes) -> bytes:
    """What stands for a content."""
    return hashlib.blake2b(content).digest()
