"""An owner's key that stays in a key store: another program wraps and unwraps for us (docs/extend/key-stores.md).

The program may speak to a cloud's key service, an HSM or an agent. It never sees the vault key: it wraps a key of the
slot's own, and that wraps the vault key, bound to the vault. So a program that answers wrongly is found out at once.
"""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
from collections.abc import Sequence

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from farshore.model.errors import Damaged, Forbidden, Unreachable
from farshore.vault.keys.owner_keys import Slot, is_kind

KIND = "command"
REFUSED = 77
"""The exit status by which the program says that this key is not the one, or may not be used."""
_PATIENCE = 60


class CommandKey:
    """A KeyWrapper that runs ``command`` with ``wrap`` or ``unwrap`` behind its arguments: bytes in, bytes out."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)

    def wrap(self, secret: bytes, vault_id: str) -> Slot:
        """See KeyWrapper. Raises Unreachable, Forbidden."""
        key, nonce = secrets.token_bytes(32), os.urandom(12)
        return {
            "kind": KIND,
            "key": _text(self._run("wrap", key, vault_id)),
            "check": _check(key),
            "nonce": _text(nonce),
            "wrapped": _text(AESGCM(key).encrypt(nonce, secret, vault_id.encode())),
        }

    def unwrap(self, slot: Slot, vault_id: str) -> bytes | None:
        """See KeyWrapper. Raises Unreachable if the key store does not answer."""
        if not is_kind(slot, KIND):
            return None
        try:
            key = self._run("unwrap", base64.b64decode(slot["key"], validate=True), vault_id)
            if slot["check"] != _check(key):
                return None
            nonce, wrapped = (base64.b64decode(slot[name], validate=True) for name in ("nonce", "wrapped"))
            return AESGCM(key).decrypt(nonce, wrapped, vault_id.encode())
        except Forbidden:
            return None
        except (InvalidTag, KeyError, TypeError, ValueError, OverflowError) as cause:
            raise Damaged(
                "The vault's descriptor was altered: the key is right, but the wrapped key does not open.",
                remedy="Restore vault.farshore from a copy.",
            ) from cause

    def _run(self, what: str, data: bytes, vault_id: str) -> bytes:
        name = self._command[0]
        try:
            done = subprocess.run(
                [*self._command, what],
                input=data,
                capture_output=True,
                timeout=_PATIENCE,
                check=False,
                env={**os.environ, "FARSHORE_VAULT_ID": vault_id},
            )
        except (OSError, subprocess.TimeoutExpired) as cause:
            raise Unreachable(f"The key command {name} did not run: {cause}", remedy="Check the key file.") from cause
        if done.returncode == REFUSED:
            raise Forbidden(f"The key store refuses to {what}: {_told(done.stderr)}", remedy="Check its permissions.")
        if done.returncode or not done.stdout:
            raise Unreachable(
                f"The key command {name} failed to {what} (status {done.returncode}): {_told(done.stderr)}",
                remedy="Check the key store and the command in the key file.",
            )
        return done.stdout


def _check(key: bytes) -> str:
    return blake3(key, derive_key_context="farshore vault 1 key command check").digest(8).hex()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _told(output: bytes) -> str:
    return output.decode(errors="replace").strip().partition("\n")[0][:300] or "it says nothing"
