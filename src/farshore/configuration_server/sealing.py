"""Seal what a job needs and the database must not show, for example an SSH key while a push installation runs."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from farshore.model.errors import WrongKey

KEY_BYTES = 32
NONCE_BYTES = 12


class SecretSealer:
    """AES-256-GCM with a random nonce; the secret's id is authenticated, so one secret cannot replace another."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, name: str, secret: bytes) -> bytes:
        """Return nonce + ciphertext."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """Return the secret. Raises WrongKey."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode())
        except InvalidTag as error:
            raise WrongKey(
                "The secret of this job was sealed with another key.", remedy="Start the job again."
            ) from error
