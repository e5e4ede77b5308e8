"""The head of a backup of an installation: what is not sealed of it. Byte table: docs/formats/backup.md.

The file is a head and a container (see container). The head holds the slot that gives the backup's own key to whoever
has the owner's key. The container is bound to the head by its name.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Mapping

from blake3 import blake3

from farshore.formats.batch import Buffer
from farshore.model.errors import Damaged, Unsupported

MAGIC = b"FARBACKU"
VERSION = 1
_FIXED = struct.Struct("<8sHHI")
"""magic, version, reserved, bytes of JSON that follow."""
_LONGEST = 64 << 10


@dataclass(frozen=True)
class Head:
    """``vault``: the id of the installation's vault, which the slot is bound to."""

    vault: str
    slot: Mapping[str, Any]

    def encode(self) -> bytes:
        """Return the bytes before the container."""
        text = json.dumps({"slot": self.slot, "vault": self.vault}, sort_keys=True, separators=(",", ":")).encode()
        return _FIXED.pack(MAGIC, VERSION, 0, len(text)) + text

    @classmethod
    def decode(cls, data: Buffer, name: str) -> tuple[Head, int]:
        """Read a head; return where the container begins. ``name`` goes into errors. Raises Damaged, Unsupported."""
        view = memoryview(data)
        if len(view) < _FIXED.size:
            raise _none(name)
        magic, version, _, length = _FIXED.unpack_from(view)
        if magic != MAGIC:
            raise _none(name)
        if version != VERSION:
            raise Unsupported(
                f"{name} has version {version}, which this release does not know.",
                remedy="Use a newer release of Farshore.",
            )
        end = _FIXED.size + length
        try:
            if length > _LONGEST or end > len(view):
                raise ValueError(length)
            fields = json.loads(bytes(view[_FIXED.size : end]))
            return cls(str(fields["vault"]), dict(fields["slot"])), end
        except (KeyError, TypeError, ValueError, RecursionError) as cause:
            raise _none(name) from cause


def container_name(head: Buffer) -> str:
    """Return the name that the container behind these bytes is sealed as."""
    return f"backup/{blake3(head).hexdigest()}"


def _none(name: str) -> Damaged:
    return Damaged(
        f"{name} is not a backup of an installation.", remedy="Give a file that `farshore server backup` wrote."
    )
