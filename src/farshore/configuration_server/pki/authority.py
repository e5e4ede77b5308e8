"""Sign the certificates of programs, machines and users.

One self-signed P-256 authority per installation: every TLS stack since 2012 supports P-256, while those of some guests
still refuse Ed25519. A certificate names its holder in a URI SAN, ``farshore://<kind>/<id>``; certificates of servers
also have their DNS names and addresses. Relies on: only the server's user can read the private key file.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from farshore.configuration_server.identity import Identity
from farshore.model.errors import Malformed

AUTHORITY_DAYS = 3650
LEAF_DAYS = 397
BEGINNING = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
"""Certificates are valid from this date on: a machine or a server whose clock went back, even to the default of clocks
without a battery, still accepts them. "Not valid yet" protects from nothing; the end of validity does."""
MINIMUM_RSA_BITS = 2048


@dataclass(frozen=True)
class SignedCertificate:
    """A signed certificate. Times are ns since 1970 UTC, the serial is lower-case hex."""

    certificate: str
    serial: str
    issued: int
    expires: int


class Authority:
    """An authority with its key. Safe to use from several threads."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, name: str, now: datetime.datetime) -> Authority:
        """Return a new self-signed authority."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return cls._made(subject, ec.generate_private_key(ec.SECP256R1()), now)

    def renewed(self, now: datetime.datetime) -> Authority:
        """Return this authority with a new certificate for the same key and name: certificates that it signed remain
        valid, for holders of the old certificate and of the new one."""
        return self._made(self._certificate.subject, self._key, now)

    @classmethod
    def _made(cls, subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> Authority:
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(BEGINNING)
            .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def from_pem(cls, certificate: str, key: str) -> Authority:
        """Read an authority. Raises Malformed."""
        try:
            loaded = serialization.load_pem_private_key(key.encode(), password=None)
            read = x509.load_pem_x509_certificate(certificate.encode())
        except ValueError as error:
            raise Malformed("The authority's files are not PEM.", remedy="Restore them from a backup.") from error
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != read.public_key():
            raise Malformed(
                "The authority's key does not belong to its certificate.", remedy="Restore both from one backup."
            )
        return cls(read, loaded)

    @property
    def ends(self) -> datetime.datetime:
        """When the authority's certificate ends."""
        return self._certificate.not_valid_after_utc

    @property
    def certificate(self) -> str:
        """The authority's certificate as PEM."""
        return _pem(self._certificate)

    @property
    def key(self) -> str:
        """The authority's private key as PEM, for a file with mode 0600."""
        return private_pem(self._key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, 64 hex digits."""
        return self._certificate.fingerprint(hashes.SHA256()).hex()

    def sign_request(
        self,
        request: str,
        holder: Identity,
        now: datetime.datetime,
        names: Sequence[str] = (),
        days: int = LEAF_DAYS,
        mark: str = "",
    ) -> SignedCertificate:
        """Sign a PEM PKCS#10 request for ``holder``. Only its public key is used: its other statements are ignored.
        Raises Malformed."""
        try:
            read = x509.load_pem_x509_csr(request.encode())
            valid = read.is_signature_valid
        except (ValueError, InvalidSignature) as error:
            raise Malformed("This is not a PEM PKCS#10 request.", remedy="Create a new request.") from error
        if not valid:
            raise Malformed("The request is not signed by its own key.", remedy="Create a new request.")
        public = read.public_key()
        strong = isinstance(public, ec.EllipticCurvePublicKey) and public.curve.key_size >= 256
        if not strong and getattr(public, "key_size", 0) < MINIMUM_RSA_BITS:
            raise Malformed("The request's key is too weak.", remedy="Use P-256, or RSA of 2048 bits or more.")
        return self._sign(public, holder, now, names, days, mark)

    def issue(
        self,
        holder: Identity,
        now: datetime.datetime,
        names: Sequence[str] = (),
        days: int = LEAF_DAYS,
        mark: str = "",
    ) -> tuple[SignedCertificate, str]:
        """Return a certificate with a new key: (certificate, private key as PEM)."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._sign(key.public_key(), holder, now, names, days, mark), private_pem(key)

    def _sign(
        self,
        public: CertificatePublicKeyTypes,
        holder: Identity,
        now: datetime.datetime,
        names: Sequence[str],
        days: int,
        mark: str = "",
    ) -> SignedCertificate:
        serial = x509.random_serial_number()
        ends = min(now + datetime.timedelta(days=days), self._certificate.not_valid_after_utc)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        alternative: list[x509.GeneralName] = [x509.UniformResourceIdentifier(holder.uri)]
        if names:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            alternative.extend(general_name(name) for name in dict.fromkeys(names))
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, f"{holder.kind.value} {holder.name}"[:64])]
        subject += [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, mark)] if mark else []
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._certificate.subject)
            .public_key(public)
            .serial_number(serial)
            .not_valid_before(BEGINNING)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return SignedCertificate(_pem(certificate), f"{serial:x}", _nanoseconds(now), _nanoseconds(ends))


def general_name(name: str) -> x509.GeneralName:
    """Return a DNS name or an address in the form of certificates. Raises Malformed."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise Malformed(f"{name!r} is not a host name or address.", remedy="Write the name in ASCII.") from error


def private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _nanoseconds(time: datetime.datetime) -> int:
    return int(time.timestamp()) * 1_000_000_000


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
