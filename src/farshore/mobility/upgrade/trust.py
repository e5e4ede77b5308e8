"""The release key that this machine trusts: pinned at enrolment, checked before another release is installed.

Whoever has the configuration server's TLS key, or impersonates it, can send commands, but cannot make an agent run
other code: that needs the release key, which is kept elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from farshore.client.credentials import read_private, write_private
from farshore.formats.release_statement import KEY_BYTES, SIGNATURE_BYTES, from_hex, statement
from farshore.model.errors import Damaged, Malformed, NotFound, Refused


def pin(path: Path, key: str) -> None:
    """Trust this release key (public half, hex) from now on. Raises Malformed."""
    try:
        from_hex(key, KEY_BYTES)
    except ValueError as error:
        raise Malformed(f"The release key is not valid: {error}.", remedy="Use the server's release key.") from error
    write_private(path, f"{key}\n".encode())


def check_release(path: Path, release: str, digest: str, signature: str) -> None:
    """Raise Refused if no key is pinned, Damaged unless the key at ``path`` signed that release with that digest."""
    try:
        pinned = read_private(path).decode("ascii", "replace").strip()
    except NotFound as error:
        raise Refused(
            "This machine has no release key, as it enrolled with an older release.",
            remedy="Add the machine again, which installs the key over SSH: farshore machine add",
        ) from error
    try:
        key = Ed25519PublicKey.from_public_bytes(from_hex(pinned, KEY_BYTES))
        key.verify(from_hex(signature, SIGNATURE_BYTES), statement(release, digest))
    except (ValueError, InvalidSignature) as error:
        raise Damaged(
            f"Release {release} is not signed by the release key that this machine trusts.",
            remedy="If the key was replaced on purpose, add the machine again: farshore machine add",
        ) from error
