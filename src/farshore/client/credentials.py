"""A program's credentials and the authority that it trusts: one JSON file that only its owner may read.

The file holds the server's URL and three PEM texts: the authority that must have issued the server's certificate, the
program's certificate and its private key. The key is given to OpenSSL through an anonymous memory file, and never
written to a second file on disk.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import ssl
import stat
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import List, Match, Optional, Tuple

from farshore.client.roles import Role, expect
from farshore.model.errors import Malformed, NotFound, Refused

_PRIVATE = 0o600
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/\s]+={0,2})\s*-----END CERTIFICATE-----")


@dataclass(frozen=True)
class Credentials:
    """``url`` is the server's base URL (https://host[:port]); the rest are PEM texts."""

    url: str
    authority: str
    certificate: str
    key: str = field(repr=False)

    def context(self, role: Role = Role.CONFIGURATION_SERVER) -> ssl.SSLContext:
        """Return a TLS context that trusts only ``authority``, connects only to servers of ``role``, and presents
        ``certificate``. Raises Malformed."""
        return client_context(self.authority, self.certificate, self.key, role=role)

    def save(self, path: Path) -> None:
        """Write the file, mode 0600. After a crash, either the old or the new file is complete."""
        write_private(path, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Credentials:
        """Read the file. Raises NotFound, Malformed, and Refused if other users could read it."""
        text = read_private(path)
        try:
            fields = json.loads(text)
            return cls(**{name: str(fields[name]) for name in ("url", "authority", "certificate", "key")})
        except (ValueError, KeyError, TypeError) as error:
            raise Malformed(f"{path} is not a credentials file.", remedy="Enrol again to write a new one.") from error


def client_context(
    authority: str, certificate: str = "", key: str = "", *, role: Optional[Role] = None
) -> ssl.SSLContext:
    """Return a context for connecting: TLS 1.2 or newer; the server's certificate must be issued by ``authority``, be
    valid for the host name, and state ``role``. ``role`` None accepts every role; for tests."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if role is not None:
        expect(context, role)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=authority)
        if certificate:
            load_key_pair(context, certificate, key)
    except (ssl.SSLError, ValueError) as error:
        raise _not_pem() from error
    return context


def _not_pem() -> Malformed:
    return Malformed("A certificate or key is not valid PEM.", remedy="Enrol again to get new ones.")


def load_key_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Give ``context`` a certificate and its private key (PEM texts) without a key file on disk."""
    pem = f"{certificate.rstrip()}\n{key.rstrip()}\n".encode()
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("farshore-key")
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:  # created with mode 0600
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)


def fingerprint(certificate: str) -> str:
    """Return SHA-256 of the first certificate in a PEM text, as 64 hex digits. Raises Malformed."""
    return hashlib.sha256(_first_der(certificate)).hexdigest()


def fingerprints(text: str) -> List[str]:
    """Return SHA-256 of each certificate in a PEM text, in their order there. Raises Malformed."""
    return [hashlib.sha256(_der(one)).hexdigest() for one in _CERTIFICATE.finditer(text)]


def first_certificate(text: str) -> str:
    """Return the first certificate of a PEM text, encoded again from the bytes that ``fingerprint`` hashes. OpenSSL
    parses PEM by other rules than this module, and must not find a different certificate in the same text. Raises
    Malformed."""
    return ssl.DER_cert_to_PEM_cert(_first_der(text))


def _first_der(text: str) -> bytes:
    found = _CERTIFICATE.search(text)
    if found is None:
        raise _no_certificate()
    return _der(found)


def _der(found: Match[str]) -> bytes:
    try:
        return base64.b64decode("".join(found.group(1).split()), validate=True)
    except ValueError as error:
        raise _no_certificate() from error


def _no_certificate() -> Malformed:
    return Malformed("This is not a PEM certificate.", remedy="Check the address of the server.")


def same_fingerprint(one: str, other: str) -> bool:
    """Return whether two fingerprints are equal; colons and case are ignored."""
    return bool(one) and one.replace(":", "").lower() == other.replace(":", "").lower()


def write_private(path: Path, data: bytes) -> None:
    """Replace a file's contents durably, with permission to read for the owner only."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), _PRIVATE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_private(path: Path) -> bytes:
    """Read a file that holds a secret. Raises NotFound, and Refused if other users could read it."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in _trusted_owners():
                raise Refused(
                    f"{path} is not yours, or other users can read it.",
                    remedy=f"Run: chown $(id -u) {path} && chmod 600 {path}",
                )
            return file.read()
    except FileNotFoundError as error:
        raise NotFound(f"There is no {path}.", remedy="Enrol this machine, or give another file.") from error
    except PermissionError as error:
        raise Refused(f"{path} cannot be read.", remedy="Run the command as the file's owner.") from error


def _trusted_owners() -> Tuple[int, ...]:
    return (0, os.geteuid())
