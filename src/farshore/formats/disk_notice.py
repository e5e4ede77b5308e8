"""The notice at the start of a disk while a master target writes it, in place of the disk's own bytes.

Byte layout: docs/formats/disk-notice.md. It is text, so a person who looks at the disk can read it. It is not a boot
sector, a partition table or a file system, so nothing boots from the disk. The first ``HELD`` bytes of a disk are only
written when all of the rest is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Optional, Union

from farshore.model.errors import Damaged, Malformed, Unsupported

NOTICE_BYTES = 512
"""One sector: a disk writes it completely or not at all."""
HELD = 131072
"""The bytes at the start of a disk that are written last: boot sector, partition table, and the superblocks of every
common file system and volume manager that has them there (btrfs: at 64 KiB)."""
_BEGINNING = b'{"format": "farshore-disk-notice", "version": '
_VERSION = 1
_CHECK = 440
"""The offset of the check. Line feeds follow it, so the last two bytes are never the signature of a boot sector."""
_TEXT = "Half written by farshore-master-target: do not start."


@dataclass(frozen=True)
class DiskNotice:
    """The disk that is being written. ``claim`` is random and identifies one start of the work."""

    vault: str
    machine: str
    disk: int
    claim: str

    def encode(self) -> bytes:
        """Return NOTICE_BYTES bytes. Raises Malformed."""
        fields = json.dumps({"text": _TEXT, **asdict(self)})
        text = _BEGINNING + f"{_VERSION}, ".encode() + fields[1:].encode()
        if len(text) >= _CHECK:
            raise Malformed("The names of vault and machine are too long for a notice.", remedy="Use shorter names.")
        body = text.ljust(_CHECK, b"\n")
        return (body + hashlib.sha256(body).digest()).ljust(NOTICE_BYTES, b"\n")


def decode_notice(head: Union[bytes, bytearray, memoryview]) -> Optional[DiskNotice]:
    """Read the start of a disk; return None if it has no notice. Raises Damaged for a damaged notice, Unsupported for a
    later release's."""
    data = bytes(head[:NOTICE_BYTES])
    if not data.startswith(_BEGINNING):
        return None
    body, check = data[:_CHECK], data[_CHECK : _CHECK + 32]
    try:
        if hashlib.sha256(body).digest() != check:
            raise ValueError("the check does not match")
        fields = json.loads(body)
        version = fields["version"]
        if version == _VERSION:
            return DiskNotice(str(fields["vault"]), str(fields["machine"]), int(fields["disk"]), str(fields["claim"]))
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise Damaged(
            "A master target left the disk half written, and its notice is damaged.",
            remedy="Let the master target start over with this disk.",
        ) from cause
    raise Unsupported(
        f"A master target of a later release left the disk half written (notice {version}).",
        remedy="Use that release.",
    )
