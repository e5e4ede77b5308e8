"""A new private key and the request for its certificate. The key never leaves the host on which it is created."""

from __future__ import annotations

from typing import Tuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def new_key_and_request(name: str) -> Tuple[str, str]:
    """Return a private key and a PKCS#10 request for it, both PEM. ``name`` is only for people; the authority decides
    the certificate's identity."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "farshore")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return private.decode(), request.public_bytes(serialization.Encoding.PEM).decode()
