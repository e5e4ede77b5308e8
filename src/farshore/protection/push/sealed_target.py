"""Seal a push target for the process server that logs in, to a key that was made for this one push.

TLS already protects it on its way. The seal protects it between TLS and the code that logs in, on either side: whatever
stores, prints or logs a body then has neither the key nor the token. Layout: docs/formats/sealed-push.md.
"""

from __future__ import annotations

import json
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from farshore.model.errors import Malformed
from farshore.protection.installation import JumpHost, PushTarget

_KEY_BYTES = 32
_NONCE = bytes(12)
"""Constant, because a key seals one text only."""
_PURPOSE = b"farshore sealed push 1\0"


def seal(target: PushTarget, push: str, recipient: bytes) -> bytes:
    """Seal for the holder of the private half of ``recipient`` (X25519, 32 bytes). Raises Malformed."""
    return seal_text(json.dumps(_plain(target)).encode(), push, recipient)


def seal_text(text: bytes, name: str, recipient: bytes) -> bytes:
    """Seal a text under a name in the same way. Raises Malformed."""
    own = X25519PrivateKey.generate()
    public = own.public_key().public_bytes_raw()
    cipher = _cipher(own, recipient, public + recipient, name)
    return public + cipher.encrypt(_NONCE, text, None)


class Opener:
    """The receiving side of one push: a key pair that lives as long as this object."""

    def __init__(self, push: str) -> None:
        self._push = push
        self._key = X25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()

    def open(self, sealed: bytes) -> PushTarget:
        """Return what was sealed for this push and this key. Raises Malformed."""
        try:
            fields: dict[str, Any] = json.loads(self.open_text(sealed))
            hop = fields.pop("jump")
            return PushTarget(**{**fields, "disks": tuple(fields["disks"])}, jump=JumpHost(**hop) if hop else None)
        except (ValueError, KeyError, TypeError):
            raise _unusable() from None  # its content must not be in a traceback

    def open_text(self, sealed: bytes) -> bytes:
        """Return the text that was sealed under this name for this key. Raises Malformed."""
        sender = sealed[:_KEY_BYTES]
        cipher = _cipher(self._key, sender, sender + self.public, self._push)
        try:
            return cipher.decrypt(_NONCE, sealed[_KEY_BYTES:], None)
        except (InvalidTag, ValueError):
            raise _unusable() from None


def _cipher(own: X25519PrivateKey, other: bytes, keys: bytes, push: str) -> AESGCM:
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:  # too short, or a point that makes every secret zero
        raise _unusable() from error
    info = _PURPOSE + keys + push.encode()
    return AESGCM(HKDF(hashes.SHA256(), _KEY_BYTES, None, info).derive(shared))


def _plain(target: PushTarget) -> dict[str, Any]:
    fields = {name: value for name, value in vars(target).items() if name not in ("agent", "guest", "jump")}
    jump = target.jump
    hop = jump and {name: value for name, value in vars(jump).items() if name != "seen"}
    return {**fields, "disks": list(target.disks), "jump": hop}


def _unusable() -> Malformed:
    return Malformed("The sealed login of this push cannot be opened here.", remedy="Add the machine again.")
