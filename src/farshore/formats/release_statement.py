"""What a release key signs, and how the agent verifies it: docs/formats/release-signature.md. Does no I/O."""

from __future__ import annotations

import re

KEY_BYTES, SIGNATURE_BYTES = 32, 64
"""The sizes for Ed25519: the public half of a key, and a signature."""
_HEX = re.compile("[0-9a-f]*")


def statement(release: str, digest: str) -> bytes:
    """Return the bytes that are signed: the release's name and the SHA-256, in hex, of its complete archive."""
    return f"farshore agent release 1\n{release}\n{digest}\n".encode()


def from_hex(text: str, size: int) -> bytes:
    """Return ``size`` bytes from lower-case hex. Raises ValueError."""
    if len(text) != 2 * size or not _HEX.fullmatch(text):
        raise ValueError(f"this is not {size} bytes in hex")
    return bytes.fromhex(text)
