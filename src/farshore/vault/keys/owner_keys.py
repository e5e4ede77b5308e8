"""The owner's key: what opens a vault, and the port behind which a cloud key store can hold it.

The owner's key wraps the vault key in a slot of the vault's descriptor; several slots may hold it under several
owner keys. Rotation writes a new slot and removes the old one: no data is touched.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import os
import secrets
import unicodedata
from pathlib import Path
from typing import Any, Iterator, Mapping, Protocol, Sequence

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from farshore.model.errors import Damaged, Malformed, NotFound, Refused, WrongKey

Slot = Mapping[str, Any]
"""One entry of the descriptor's ``slots``; JSON."""
_BYTE_ORDER_MARK = "\ufeff"
_FILE_HEADER = "farshore-owner-key-1:"
_MOST_COSTLY = (16, 16, 1 << 20)
"""Iterations, lanes and KiB of Argon2id: whoever alters the descriptor must not take a reader's memory or hours."""


class KeyWrapper(Protocol):
    """Wraps and unwraps a vault key. An implementation for a cloud key store keeps its own key out of this process."""

    def wrap(self, secret: bytes, vault_id: str) -> Slot:
        """Return a slot that only this wrapper can open; bound to the vault's id."""
        ...

    def unwrap(self, slot: Slot, vault_id: str) -> bytes | None:
        """Return the secret, or None if the slot is of another kind or key. Raises Damaged if only the check
        matches."""
        ...


class OwnerKey:
    """An owner's key held here: from a key file or a passphrase."""

    def __init__(self, secret: bytes, kind: str, others: Sequence[bytes] = ()) -> None:
        self._secret = secret
        self._kind = kind
        self._others = others
        """Other encodings of the same passphrase: they open, and never wrap."""

    @classmethod
    def from_file(cls, path: Path) -> OwnerKey:
        """Read a key file. Raises NotFound, Malformed, and Refused if others than its user may read it."""
        text = read_key_file(path)
        if not text.startswith(_FILE_HEADER):
            raise Malformed(f"{path} is not an owner key file.", remedy="Give the file that `vault init` wrote.")
        try:
            secret = bytes.fromhex(text[len(_FILE_HEADER) :])
        except ValueError as cause:
            raise Malformed(f"{path} is not an owner key file.", remedy="Restore it from its backup.") from cause
        if len(secret) != 32:
            raise Malformed(f"{path} is truncated.", remedy="Restore it from its backup.")
        return cls(secret, "key-file")

    @classmethod
    def generate_file(cls, path: Path) -> OwnerKey:
        """Write a new key file (0600, durable). Raises Refused if the file exists: a key is never overwritten."""
        secret = secrets.token_bytes(32)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as cause:
            raise Refused(f"{path} exists.", remedy="Choose another name; a key file is never overwritten.") from cause
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"{_FILE_HEADER}{secret.hex()}\n")
            file.flush()
            os.fsync(file.fileno())
        return cls(secret, "key-file")

    @classmethod
    @contextlib.contextmanager
    def new_file(cls, path: Path) -> Iterator[OwnerKey]:
        """Yield the key of a new key file, for a vault to be made with. If that is refused, the file is removed: there
        is no vault of this key. After an error that passes it stays: the vault may be there, its answer lost. Raises as
        generate_file."""
        owner = cls.generate_file(path)
        try:
            yield owner
        except (Refused, Damaged):
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def from_passphrase(cls, passphrase: str) -> OwnerKey:
        """Return a key that is stretched from a passphrase with Argon2id, with a salt of each vault's own. The same
        letters open it however they are encoded (NFC or NFD), also a vault that was made with another form than NFC, or
        with a byte order mark or a carriage return. Raises Malformed for an empty one."""
        letters = passphrase.removeprefix(_BYTE_ORDER_MARK).removesuffix("\r")
        if not letters.strip():
            raise Malformed("The passphrase is empty.", remedy="Choose one that is hard to guess.")
        forms = [unicodedata.normalize("NFC", letters), passphrase, letters, unicodedata.normalize("NFD", letters)]
        first, *others = dict.fromkeys(form.encode() for form in forms)
        return cls(first, "passphrase", others)

    @classmethod
    def from_passphrase_file(cls, path: Path, *, new: bool = False) -> OwnerKey:
        """Return the same from a file, whose last line breaks do not count. ``new``: a vault is to be closed with it,
        so it has to be plain UTF-8. Raises NotFound, Malformed."""
        try:
            data = path.read_bytes()
        except OSError as cause:
            raise NotFound(
                f"{path} cannot be read: {cause.strerror}.", remedy="Give a file with the passphrase."
            ) from cause
        convert = f"Write it as UTF-8: iconv -f {{}} -t UTF-8 {path}"
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
            raise Malformed(f"{path} is UTF-16, not UTF-8.", remedy=convert.format("UTF-16"))
        if new and data.startswith(codecs.BOM_UTF8):
            raise Malformed(
                f"{path} begins with a byte order mark, which cannot be part of a passphrase.",
                remedy="Save it as UTF-8 without one.",
            )
        try:
            text = data.decode()
        except UnicodeDecodeError as cause:
            raise Malformed(f"{path} is not UTF-8; it may be Latin-1.", remedy=convert.format("ISO-8859-1")) from cause
        return cls.from_passphrase(text.rstrip("\n"))

    def wrap(self, secret: bytes, vault_id: str) -> Slot:
        """See KeyWrapper."""
        slot: dict[str, Any] = {"kind": self._kind, "salt": _text(os.urandom(16)), "nonce": _text(os.urandom(12))}
        if self._kind == "passphrase":
            slot["argon2id"] = {"iterations": 3, "memory_kib": 65536, "lanes": 2}
        key = self._stretched(slot, self._secret)
        slot["check"] = _check(key)
        slot["wrapped"] = _text(AESGCM(key).encrypt(_bytes(slot["nonce"]), secret, vault_id.encode()))
        return slot

    def unwrap(self, slot: Slot, vault_id: str) -> bytes | None:
        """See KeyWrapper."""
        if not is_kind(slot, self._kind):
            return None
        try:
            for secret in (self._secret, *self._others):
                key = self._stretched(slot, secret)
                if slot["check"] == _check(key):
                    return AESGCM(key).decrypt(_bytes(slot["nonce"]), _bytes(slot["wrapped"]), vault_id.encode())
            return None
        except (InvalidTag, KeyError, TypeError, ValueError, OverflowError) as cause:
            raise Damaged(
                "The vault's descriptor was altered: the key is right, but the wrapped key does not open.",
                remedy="Restore vault.farshore from a copy.",
            ) from cause

    def _stretched(self, slot: Slot, secret: bytes) -> bytes:
        salt = _bytes(slot["salt"])
        if self._kind == "key-file":
            return bytes(blake3(secret + salt, derive_key_context="farshore vault 1 owner key").digest(32))
        cost = [int(slot["argon2id"][name]) for name in ("iterations", "lanes", "memory_kib")]
        if any(one > most for one, most in zip(cost, _MOST_COSTLY, strict=True)):
            raise ValueError("no release ever asked for as much")
        iterations, lanes, memory = cost
        return Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory).derive(secret)


def is_kind(slot: object, kind: str) -> bool:
    """Return whether a slot is of that kind. Nobody vouches for the descriptor: a slot may be anything."""
    return isinstance(slot, dict) and slot.get("kind") == kind


def read_key_file(path: Path) -> str:
    """Return the line of a key file. Raises NotFound, Malformed, and Refused if others than its user may read it."""
    try:
        status = path.stat()
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError as cause:
        raise NotFound(f"There is no key file {path}.", remedy="Give the path of the vault's key file.") from cause
    except (OSError, UnicodeDecodeError) as cause:
        raise Malformed(f"{path} cannot be read as a key file.", remedy="Give the vault's key file.") from cause
    if status.st_mode & 0o077:
        raise Refused(f"Other users can read the key file {path}.", remedy=f"Run: chmod 600 {path}")
    return text


def unwrap_any(owner: KeyWrapper, slots: list[Slot], vault_id: str) -> bytes:
    """Return the vault key out of the slot that ``owner`` opens. Raises WrongKey, Damaged."""
    for slot in slots:
        secret = owner.unwrap(slot, vault_id)
        if secret is not None:
            return secret
    raise WrongKey("This key does not open the vault.", remedy="Give the key file or passphrase of this vault.")


def _check(key: bytes) -> str:
    return blake3(key, derive_key_context="farshore vault 1 owner key check").digest(8).hex()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
