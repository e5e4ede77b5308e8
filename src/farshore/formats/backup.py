"""The header of a backup of an installation, which is the part that is not encrypted. Byte table:
docs/formats/backup.md.

The file is a header and a container (see container). The header holds a key slot: whoever has the owner's key can
decrypt the backup's own key with it. The container is bound to the header through its name.
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
"""magic, version, reserved, number of JSON bytes that follow."""
_LONGEST = 64 << 10


@dataclass(frozen=True)
class Head:
    """``vault`` is the id of the installation's vault, to which the slot is bound."""

    vault: str
    slot: Mapping[str, Any]

    def encode(self) -> bytes:
        """Return the bytes that precede the container."""
        text = json.dumps({"slot": self.slot, "vault": self.vault}, sort_keys=True, separators=(",", ":")).encode()
        return _FIXED.pack(MAGIC, VERSION, 0, len(text)) + text

    @classmethod
    def decode(cls, data: Buffer, name: str) -> tuple[Head, int]:
        """Read a header; return it and the offset of the container. ``name`` is used in errors. Raises Damaged,
        Unsupported."""
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
    """Return the name under which the container after these bytes is sealed."""
    return f"backup/{blake3(head).hexdigest()}"


def _none(name: str) -> Damaged:
    return Damaged(
        f"{name} is not a backup of an installation.", remedy="Give a file that `farshore server backup` wrote."
    )
