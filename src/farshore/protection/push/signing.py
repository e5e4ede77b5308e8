"""The release key signs the agent's releases, so that a machine installs nothing else.

Created at set-up, separate from the authority and from TLS keys. It is needed only when a release is signed for the
first time; signatures are stored, so the private half may be on a medium that is present only for upgrades.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from farshore.client.credentials import read_private, write_private
from farshore.formats.release_statement import statement
from farshore.model.errors import Damaged, Malformed, NotFound
from farshore.protection.push.bundle import Bundle

PUBLIC_FILE = "release.pub"


class ReleaseKey:
    """``folder`` holds the public half and the signatures, ``private`` is the file of the private half."""

    def __init__(self, folder: Path, private: Path) -> None:
        self._folder = folder
        self._private = private

    def ensure(self) -> None:
        """Create the key if there is none. Raises NotFound if only the public half of one remains."""
        public = self._folder / PUBLIC_FILE
        if public.exists():
            return  # the private half may be kept elsewhere on purpose
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if not self._private.exists():
            key = Ed25519PrivateKey.generate()
            form = serialization.PrivateFormat.PKCS8
            write_private(
                self._private, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
            )
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        write_private(public, f"{self._load().public_key().public_bytes(*raw).hex()}\n".encode())

    @property
    def public(self) -> str:
        """The public half, in hex."""
        return read_private(self._folder / PUBLIC_FILE).decode("ascii").strip()

    def sign(self, bundle: Bundle) -> str:
        """Return the bundle's signature, in hex; made once, then stored.

        Raises NotFound if the private half is needed and missing, Damaged if the bundle is not the one that was signed
        under its name."""
        digest, kept = bundle.digest(), self._folder / f"{bundle.release}.sig"
        if kept.exists():
            signed, signature = read_private(kept).decode("ascii").split()
            if signed != digest:
                raise Damaged(
                    f"{bundle.path} was changed after it was signed as release {bundle.release}.",
                    remedy=f"Find out who changed it. Then remove it and {kept}; a new bundle is built.",
                )
            return signature
        signature = self._load().sign(statement(bundle.release, digest)).hex()
        write_private(kept, f"{digest} {signature}\n".encode())
        return signature

    def _load(self) -> Ed25519PrivateKey:
        try:
            text = read_private(self._private)
        except NotFound as error:
            raise NotFound(
                f"The release key {self._private} is missing.",
                remedy="Restore it until the release is signed; see docs/security.md.",
            ) from error
        try:
            key = serialization.load_pem_private_key(text, password=None)
        except ValueError as error:
            raise Malformed(f"{self._private} is not a private key.", remedy="Restore it from its copy.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise Malformed(f"{self._private} is not an Ed25519 key.", remedy="Restore it from its copy.")
        return key
